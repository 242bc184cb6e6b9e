"""Humanity's Last Exam: questions that are answered over several turns with search, programs and documents."""
