/* The names of the C++ library are those of the component's libc++, which is wasi-sdk's. */
#undef _LIBCPP_ABI_VERSION
#define _LIBCPP_ABI_VERSION 2
#undef _LIBCPP_ABI_NAMESPACE
#define _LIBCPP_ABI_NAMESPACE __2
