/* Instead of the C library's <fenv.h>, which on WebAssembly can say nothing, since the machine has no floating-point
 * status. numpy sets and reads one itself where a result would show it: linalg, integer division, scalars. It lives in
 * one variable, which patches/floating-point-status.patch puts into _multiarray_umath. */
#ifndef FENV_H
#define FENV_H

#define FE_INVALID 1
#define FE_DIVBYZERO 4
#define FE_OVERFLOW 8
#define FE_UNDERFLOW 16

extern __attribute__((visibility("default"))) int numpy_floating_point_status;

static inline int fetestexcept(int exceptions) { return numpy_floating_point_status & exceptions; }
static inline int feclearexcept(int exceptions) { numpy_floating_point_status &= ~exceptions; return 0; }
static inline int feraiseexcept(int exceptions) { numpy_floating_point_status |= exceptions; return 0; }

#endif
