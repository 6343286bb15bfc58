"""What the WebUI's gateway costs, beside other gateways on the same machine in the same run."""
