"""TensorBoard event files of a run: scalars, figures, transcripts, projector."""
