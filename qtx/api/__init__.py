"""The names of `import qtx`, thin over `qtx.pipeline`: what the commands do, from Python."""
