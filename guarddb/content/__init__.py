"""Hidden instructions in result text: characters that a person does not see and a model reads. Pure: text in, findings out."""
