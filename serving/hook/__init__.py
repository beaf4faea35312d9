"""The framework-free core: decide a request, rewrite it, watch its answer, record it."""
