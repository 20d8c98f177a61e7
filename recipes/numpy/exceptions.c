/* What a C++ throw calls. The component has no exceptions, so it ends the cell. */
__attribute__((visibility("hidden"))) void *__cxa_allocate_exception(unsigned long size) { __builtin_trap(); }
__attribute__((visibility("hidden"))) void __cxa_throw(void *thrown, void *type, void *destroy) { __builtin_trap(); }
