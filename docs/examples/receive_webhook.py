# python3 receive_webhook.py PORT: prints position and event of every webhook that is signed with PROOFTRAIL_WEBHOOK_SECRET; refuses others.
import base64, hmac, http.server, os, sys, time
secret = base64.b64decode(os.environ["PROOFTRAIL_WEBHOOK_SECRET"].removeprefix("whsec_"))
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        told, body = self.headers, self.rfile.read(int(self.headers["content-length"]))
        signed = f"{told['webhook-id']}.{told['webhook-timestamp']}.".encode() + body
        ours = "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
        recent = abs(time.time() - float(told["webhook-timestamp"] or 0)) < 300
        genuine = recent and any(hmac.compare_digest(ours, one) for one in (told["webhook-signature"] or "").split())
        if genuine: print(told["ce-position"], body.decode(), flush=True)
        self.send_response(204 if genuine else 401), self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
