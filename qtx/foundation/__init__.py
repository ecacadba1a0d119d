"""The foundation of all other packages: errors, options, exact sums, files, devices. It knows nothing of models."""
