// Clients in Node's own ways: `node captured.mjs NAME PORT`.
//
// c-ares asks the name server itself; net.connect races the families where Node does that.  Each
// way prints one line of JSON: its name, the address that Node sees, and the first line that the
// service says.
import dns from "node:dns/promises";
import net from "node:net";

const [name, port] = process.argv.slice(2);
const ask = (way, options) => new Promise((resolve, reject) => {
  let text = "";
  const socket = net.connect({ port: Number(port), timeout: 10_000, ...options });
  socket.setEncoding("utf8").setNoDelay(true).setKeepAlive(true);
  socket.on("timeout", () => reject(new Error(`${way}: timeout`))).on("error", reject);
  socket.on("data", (data) => {
    text += data;
    if (!text.includes("\n")) return;
    const answer = JSON.parse(text.split("\n")[0]);
    console.log(JSON.stringify({ way, remote: socket.remoteAddress, answer }));
    socket.end(resolve);
  });
});
const [four] = await dns.resolve4(name);
const [six] = await dns.resolve6(name);
await ask("four", { host: four });
await ask("six", { host: six });
await ask("races", { host: name, autoSelectFamily: true });
