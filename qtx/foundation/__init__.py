"""What everything stands on: errors, options, exact sums, files, devices. It knows nothing of models."""
