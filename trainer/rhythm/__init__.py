"""The recipe `rhythm`: stages by each customer's own clock, and kinds by K-Means. Imported by bench and run."""
