"""echo_client.py SERVER ARGUMENTS... - start an echo server that prints its address last on its first line
("... 127.0.0.1:PORT"), and check that all that is sent comes back, also to a client that does not read for a while."""
import re
import socket
import subprocess
import sys
import threading

DEADLINE_S = 40
# 40 MiB: more than the socket buffers and a stream's write queue may hold together, so a server that goes on reading
# while it cannot write loses some of it.
PAYLOAD = bytes(range(256)) * (160 * 1024)


def send_all(client):
    client.sendall(PAYLOAD)
    client.shutdown(socket.SHUT_WR)


def main():
    server = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watchdog = threading.Timer(DEADLINE_S, server.kill)
    watchdog.start()
    try:
        line = server.stdout.readline()
        port = re.search(r"127\.0\.0\.1:(\d+)$", line.strip())
        if not port:
            sys.exit(f"the server's first line names no address: {line!r}")
        # The first client is gone before it has read its answer; the second must not notice.
        with socket.create_connection(("127.0.0.1", int(port.group(1))), timeout=DEADLINE_S) as client:
            client.sendall(b"gone")
        with socket.create_connection(("127.0.0.1", int(port.group(1))), timeout=DEADLINE_S) as client:
            sender = threading.Thread(target=send_all, args=(client,), daemon=True)
            sender.start()
            sender.join(1)  # a server that heeds its write queue is waiting for us by now
            received = bytearray()
            while block := client.recv(1 << 16):
                received += block
            sender.join(DEADLINE_S)
        if received != PAYLOAD:
            sys.exit(f"sent {len(PAYLOAD)} bytes, {len(received)} came back, or not the same")
        if server.poll() is not None:
            sys.exit(f"the server ended with status {server.returncode}")
    finally:
        watchdog.cancel()
        server.kill()
        server.wait()
        server.stdout.close()


main()
