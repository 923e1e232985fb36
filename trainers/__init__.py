"""Commands that train and evaluate policies, and the parts that they are made of."""
