"""Studies: many small trainings that answer one question, and what came out. Each has a README of its own."""
