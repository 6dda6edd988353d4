"""What tills talk to: enrolment, batches, and the push channel."""
