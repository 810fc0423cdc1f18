"""Has an authority deactivate an account of ours: acme_deactivate.py ACCOUNT DIRECTORY CA

ACCOUNT is the file that Sumun keeps of it, DIRECTORY the authority's URL, CA what its certificate comes from.
See RFC 8555 section 7.3.6.
"""

import base64
import json
import ssl
import sys
import urllib.error
import urllib.request

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

account, directory, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
with open(account) as file:
    kept = json.load(file)
padded = kept["key_pkcs8"] + "=" * (-len(kept["key_pkcs8"]) % 4)
key = serialization.load_der_private_key(base64.urlsafe_b64decode(padded), None)


def encoded(content):
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def deactivate():
    with urllib.request.urlopen(directory, context=context) as answer:
        places = json.load(answer)
    with urllib.request.urlopen(places["newNonce"], context=context) as answer:
        nonce = answer.headers["Replay-Nonce"]
    protected = {"alg": "ES256", "kid": kept["id"], "nonce": nonce, "url": kept["id"]}
    head = encoded(json.dumps(protected).encode())
    payload = encoded(b'{"status": "deactivated"}')
    r, s = utils.decode_dss_signature(key.sign(f"{head}.{payload}".encode(), ec.ECDSA(hashes.SHA256())))
    signature = encoded(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    body = json.dumps({"protected": head, "payload": payload, "signature": signature}).encode()
    request = urllib.request.Request(kept["id"], body, {"Content-Type": "application/jose+json"})
    with urllib.request.urlopen(request, context=context) as answer:
        return json.load(answer)["status"]


for _ in range(20):
    try:
        print(deactivate())
        break
    except urllib.error.HTTPError as error:
        problem = json.load(error)
        # Some authorities refuse a part of all nonces, to see what comes then.
        if not problem["type"].endswith(":badNonce"):
            sys.exit(f"{problem}")
