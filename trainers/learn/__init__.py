"""Functions over arrays that learners are made of."""
