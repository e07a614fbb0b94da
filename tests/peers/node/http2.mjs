// Node's http2 as one end of tunnels: CONNECT over mutual TLS, without verifying names.  It writes one JSON object per line.
//
//   node http2.mjs serve CERTIFICATE KEY ROOTS PORT STREAMS              dials what a CONNECT names; at most STREAMS at a time
//   node http2.mjs dial CERTIFICATE KEY ROOTS PORT AUTHORITY COUNT SIZE  COUNT streams at once on one tunnel, each with SIZE
//                                                                        bytes to an echo and back, half-closing
//   node http2.mjs get CERTIFICATE KEY ROOTS PORT                        asks with GET
import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import net from "node:net";

const [command, certificate, key, roots, port, ...rest] = process.argv.slice(2);
const mutual = {
  cert: readFileSync(certificate), key: readFileSync(key), ca: readFileSync(roots),
  requestCert: true, rejectUnauthorized: true, checkServerIdentity: () => undefined,
  minVersion: "TLSv1.3", ALPNProtocols: ["h2"],
};
const { NGHTTP2_NO_ERROR } = http2.constants;
const say = (words) => console.log(JSON.stringify(words));

function serve(streams) {
  const sessions = new Set();
  const server = http2.createSecureServer({ ...mutual, settings: { maxConcurrentStreams: Number(streams) } });
  server.on("session", (session) => {
    sessions.add(session);
    session.on("close", () => sessions.delete(session));
  });
  server.on("sessionError", () => {});
  server.on("stream", relay);
  server.listen(Number(port), "127.0.0.1", () => say({ listening: port }));
  process.once("SIGTERM", () => {
    server.close();
    for (const session of sessions) session.close(); // GOAWAY; it ends with its last stream
  });
}

function relay(stream, headers) {
  const authority = headers[":authority"];
  const [, caller = ""] = /URI:([^,]*)/.exec(stream.session.socket.getPeerCertificate().subjectaltname ?? "") ?? [];
  say({ method: headers[":method"], authority, caller });
  const [host, number] = authority.split(":");
  const application = net.connect({ host, port: Number(number), allowHalfOpen: true });
  application.once("connect", () => {
    stream.respond({ ":status": 200 });
    application.pipe(stream);
    stream.pipe(application);
  });
  application.once("error", (error) => {
    if (stream.headersSent) stream.destroy(error); // RST_STREAM; `close` would send END_STREAM before it
    else stream.respond({ ":status": 503 }, { endStream: true });
  });
  stream.once("error", () => {}); // `close` follows
  stream.once("close", () => {
    if (stream.rstCode === NGHTTP2_NO_ERROR) application.end();
    else application.resetAndDestroy();
  });
}

function connected() {
  // above this many MB of unsent bytes Node itself resets streams
  const session = http2.connect(`https://127.0.0.1:${port}`, { ...mutual, maxSessionMemory: 100 });
  return new Promise((resolve, reject) => {
    session.once("error", reject);
    // what the peer allows is known before a stream is opened
    session.once("remoteSettings", () => resolve(session));
  });
}

function exchange(session, authority, size) {
  const sent = randomBytes(size), heard = createHash("sha256");
  const stream = session.request({ ":method": "CONNECT", ":authority": authority });
  return new Promise((resolve, reject) => {
    stream.once("error", reject);
    stream.once("response", (headers) => {
      if (headers[":status"] !== 200) {
        stream.resume();
        stream.close();
        reject(new Error(`answered with ${headers[":status"]}`));
        return;
      }
      stream.on("data", (data) => heard.update(data));
      stream.end(sent);
    });
    stream.once("end", () => {
      if (heard.digest().equals(createHash("sha256").update(sent).digest())) resolve();
      else reject(new Error("other bytes came back"));
    });
  });
}

async function dial(authority, count, size) {
  const session = await connected();
  const done = await Promise.allSettled(
    Array.from({ length: Number(count) }, () => exchange(session, authority, Number(size))));
  const bad = done.filter((each) => each.status === "rejected");
  say({ good: done.length - bad.length, last_failure: bad.at(-1)?.reason.message ?? "" });
  session.close();
}

async function get() {
  const session = await connected();
  const stream = session.request({ ":path": "/" });
  stream.once("response", (headers) => say({ status: headers[":status"] }));
  stream.once("close", () => session.close());
  stream.resume();
}

try {
  await { serve, dial, get }[command](...rest);
} catch (error) {
  say({ error: error.message });
  process.exitCode = 1;
}
