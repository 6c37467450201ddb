/* For tests that look inside the engine: agf.c as a part of them, but for the kernels, which are those of the library as it was built and
 * which they are linked with. So the kernels are compiled once, and what is checked is what is shipped. */
#ifndef AGF_TESTS_INSIDE_H
#define AGF_TESTS_INSIDE_H

#define AGF_API static
#define AGF_KERNELS_LINKED
#include "../agf.c"

#endif
