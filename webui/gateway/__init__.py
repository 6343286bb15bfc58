"""The OpenAI API at ``/api/v1`` and ``/v1``: a literal list of routes, relayed as bytes."""
