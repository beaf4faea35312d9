"""The framework-free core: decides a request, rewrites it, observes its answer, records it."""
