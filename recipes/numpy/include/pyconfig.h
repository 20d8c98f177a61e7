/* What CPython's public headers ask of the platform, for the guest: wasm32-wasi, as componentize-py builds CPython.
 * Only these; what is absent is not used by the headers, or absent on wasi. */
#ifndef PYCONFIG_H
#define PYCONFIG_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#define ALIGNOF_MAX_ALIGN_T 16
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_DOUBLE 16
#define SIZEOF_LONG_LONG 8
#define SIZEOF_OFF_T 8
#define SIZEOF_PID_T 4
#define SIZEOF_PTHREAD_T 4
#define SIZEOF_SIZE_T 4
#define SIZEOF_TIME_T 8
#define SIZEOF_UINTPTR_T 4
#define SIZEOF_VOID_P 4
#define SIZEOF_WCHAR_T 4

#define HAVE_LANGINFO_H 1
#define HAVE_PTHREAD_H 1
#define HAVE_SSIZE_T 1
#define HAVE_SYS_STAT_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_WCHAR_H 1

#define WITH_DOC_STRINGS 1
#define WITH_PYMALLOC 1

#endif
