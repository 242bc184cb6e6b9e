"""A pool after distillation: the cheap model has learned, by assumption, part of what dearer models did where it failed."""
