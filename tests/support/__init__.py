"""What the tests share: small worlds and runs, stand-ins for clusters and servers, and processes to be killed."""
