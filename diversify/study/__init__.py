"""Equal-budget comparisons of methods: what is compared, how it is tuned, what is recorded, and what the records say."""
