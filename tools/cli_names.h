/* What the user names: methods, parts of a method, colours, classes, the model itself. */
#ifndef CLI_NAMES_H
#define CLI_NAMES_H

#include "cli_options.h"

/* Methods by their names, in the order asked for, each once; `all` are all that this engine has. Returns how many. */
static int find_methods(const text_list *lists, agf_method methods[AGF_METHODS]) {
  bool taken[AGF_METHODS] = {false};
  int count = 0, i, k;

  for (i = 0; i < lists->count; i++) {
    const char *list = lists->items[i];

    for (;;) {
      size_t length = strcspn(list, ",");
      char *name = text_of("%.*s", (int)length, list);
      int method = agf_method_find(name), last = method;

      if (!strcmp(name, "all")) {
        method = 0;
        last = AGF_METHODS - 1;
      } else if (method < 0) {
        fatal("unknown method %s%s; `agf help explain` lists the methods", name,
              did_you_mean(name, method_name, NULL, AGF_METHODS));
      }
      for (k = method; k <= last; k++)
        if (!taken[k] && agf_method_traits((agf_method)k) & AGF_METHOD_BUILT) {
          taken[k] = true;
          methods[count++] = (agf_method)k;
        }
      free(name);
      if (!list[length]) break;
      list += length + 1;
    }
  }
  if (!lists->count) methods[count++] = AGF_METHOD_AGF;
  return count;
}

/* "no_fx,no_m" to AGF_OPT_NO_FX | AGF_OPT_NO_M. */
static unsigned find_ablations(const char *list) {
  static const struct {
    const char *name;
    unsigned bit;
  } known[] = {{"no_fx", AGF_OPT_NO_FX}, {"no_fdx", AGF_OPT_NO_FDX}, {"no_m", AGF_OPT_NO_M},
               {"no_a", AGF_OPT_NO_A},   {"no_reg", AGF_OPT_NO_REG}, {"fx_gradcam", AGF_OPT_FX_GRADCAM}};
  unsigned bits = 0;

  for (;;) {
    size_t length = strcspn(list, ","), i;
    unsigned bit = 0;

    for (i = 0; i < sizeof known / sizeof *known; i++)
      if (length == strlen(known[i].name) && !strncmp(list, known[i].name, length)) bit = known[i].bit;
    if (!bit) fatal("--options: %.*s is unknown; there are no_fx, no_fdx, no_m, no_a, no_reg and fx_gradcam", (int)length, list);
    bits |= bit;
    if (!list[length]) return bits;
    list += length + 1;
  }
}

static agf_colormap find_cmap(const char *name) {
  int cmap = agf_colormap_find(name);

  if (cmap < 0)
    fatal("--cmap %s is unknown%s; there are rdbu, seismic, jet, viridis, turbo and gray", name,
          did_you_mean(name, cmap_name, NULL, AGF_COLORMAPS));
  return (agf_colormap)cmap;
}

/* Whether `text` is digits alone, so that it names a class by its index. */
static bool is_index(const char *text) { return *text && strspn(text, "0123456789") == strlen(text); }

static bool is_class(const agf_model *model, const char *text) {
  int found, index;

  if (is_index(text)) return parse_whole(text, 0, agf_model_classes(model) - 1, &index);
  return *text && agf_model_find(model, text, &found, 1) > 0;
}

/* How to ask for several classes, in memory of its own, where `text` is a list of such; else "". */
static char *several_classes(const agf_model *model, const char *text) {
  const char *between = strchr(text, ',') ? "," : " ";
  char *options = text_of("%s", "");
  bool all = true;
  int count = 0;

  while (all && *text) {
    size_t length;
    char *name, *longer;

    text += strspn(text, " ,");
    length = strcspn(text, between);
    while (length && text[length - 1] == ' ') length--;
    if (!length) break;
    name = text_of("%.*s", (int)length, text);
    all = is_class(model, name);
    count++;
    longer = text_of(strchr(name, ' ') ? "%s -c '%s'" : "%s -c %s", options, name);
    free(name);
    free(options);
    options = longer;
    text += length;
  }
  if (all && count > 1) {
    char *hint = text_of("; several classes are several options:%s", options);

    free(options);
    return hint;
  }
  *options = 0;
  return options;
}

/* The class that `text` names: an index, else a label by agf_model_find()'s rules. */
static int find_class(const agf_model *model, const char *text) {
  enum { LISTED = 8 };
  int classes = agf_model_classes(model), some[LISTED], found, index, i;
  bool is_number = is_index(text);
  char list[640] = "", *hint;

  if (is_number && parse_whole(text, 0, classes - 1, &index)) return index;
  found = agf_model_find(model, text, some, LISTED);
  if (found == 1) return some[0];
  for (i = 0; i < found && i < LISTED; i++) {
    size_t used = strlen(list);

    snprintf(list + used, sizeof list - used, "%s%.60s (%d)", i ? ", " : "", agf_model_label(model, some[i]), some[i]);
  }
  if (found > LISTED) fatal("class '%s' is ambiguous: %s and %d more", text, list, found - LISTED);
  if (found) fatal("class '%s' is ambiguous: %s", text, list);
  hint = several_classes(model, text);
  if (is_number || !*agf_model_label(model, 0))
    fatal("class '%s' does not exist: the model has the classes 0 to %d%s%.400s", text, classes - 1,
          *agf_model_label(model, 0) ? "" : " and no labels", hint);
  fatal("class '%s' does not exist: no label of the model holds it%.400s", text,
        *hint ? hint : did_you_mean(text, label_name, model, classes));
  return -1;
}

/* "tiger cat (282)", or "class 282" without labels, in memory of its own. */
static char *class_name(const agf_model *model, int k) {
  const char *label = agf_model_label(model, k);

  return *label ? text_of("%s (%d)", label, k) : text_of("class %d", k);
}

static agf_model *open_model(const char *path) {
  agf_model *model;
  agf_error error;

  if (agf_model_open(path, NULL, &model, &error)) fatal("%s", error.message); /* it begins with the path */
  return model;
}

#endif
