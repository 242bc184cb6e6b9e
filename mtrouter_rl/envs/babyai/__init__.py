"""BabyAI, a grid world told in words, and its expert."""
