"""HTTPS for the endpoint: a certificate and a key in files, which HAProxy alone reads."""
