// What a project's tests do with testcontainers; `leave` ends as a test run that was killed does.
// Prints what it has seen, and the ids of its containers, as JSON.
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { resolve } from "node:path";
import { GenericContainer } from "testcontainers";

function ask(host, port) {
  return new Promise((answered, failed) => {
    const socket = connect(port, host, () => socket.write("CONFIG GET maxmemory\r\n"));
    socket.once("data", (data) => {
      socket.end();
      answered(data.toString().trim().split("\r\n").pop());
    });
    socket.once("error", failed);
  });
}

writeFileSync("redis.conf", "maxmemory 33554432\n");
const seen = {};
const containers = [];
for (const name of ["one", "two"]) {
  const container = await new GenericContainer("redis:7")
    .withExposedPorts(6379)
    .withBindMounts([{ source: resolve("redis.conf"), target: "/etc/redis.conf" }])
    .withCommand(["redis-server", "/etc/redis.conf", "--bind", "0.0.0.0", "--protected-mode", "no"])
    .withStartupTimeout(100_000)
    .start();
  containers.push(container);
  const address = [container.getHost(), container.getMappedPort(6379)];
  seen[name] = [...address, await ask(...address)];
}
console.log(JSON.stringify({ seen, containers: containers.map((container) => container.getId()) }));
if (process.argv[2] === "leave") process.exit(0);
for (const container of containers) await container.stop();
process.exit(0);
