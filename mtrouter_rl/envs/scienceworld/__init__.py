"""ScienceWorld, a text game of school science: its engine in a Java process, and its gold paths."""
