/* An allocator that keeps books, for the C tests: what is held, what was the most, and failures on demand. */
#ifndef AGF_LEDGER_H
#define AGF_LEDGER_H

#include "../agf.h"
#include <stdlib.h>
#include <string.h>

typedef struct ledger {
  size_t live, most; /* bytes held now, and at most */
  long blocks, calls;
  long fail_at;   /* this call gives NULL; 0: none */
  size_t largest; /* a request for more gives NULL; 0: no such limit */
} ledger;

static inline void *ledger_alloc(void *ctx, size_t bytes) {
  ledger *l = (ledger *)ctx;
  void *p = NULL;
  if (++l->calls == l->fail_at || (l->largest && bytes > l->largest) || posix_memalign(&p, 64, bytes + 1)) return NULL;
  l->live += bytes;
  l->blocks++;
  if (l->live > l->most) l->most = l->live;
  return p;
}

static inline void ledger_free(void *ctx, void *p, size_t bytes) {
  ledger *l = (ledger *)ctx;
  if (!p) return;
  l->live -= bytes;
  l->blocks--;
  free(p);
}

/* The allocator of an empty ledger. */
static inline agf_allocator ledger_allocator(ledger *l) {
  agf_allocator a;
  memset(l, 0, sizeof *l);
  a.alloc = ledger_alloc;
  a.free = ledger_free;
  a.ctx = l;
  return a;
}

#endif
