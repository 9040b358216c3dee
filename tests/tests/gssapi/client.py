# A client of the GSS-API method of SOCKS5 (RFC 1961), with the contexts of MIT krb5 (python3-gssapi). It says what came
# of it in one line of JSON.
import argparse
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time

import gssapi

PROXY = ('127.0.0.1', 1080)


class Refused(Exception):
    pass


class Client:
    def __init__(self, level, sequence=True):
        self.level = level
        self.buffer = b''
        self.socket = socket.create_connection(PROXY)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(60)
        name = gssapi.Name('rcmd@localhost', gssapi.NameType.hostbased_service)
        flags = [gssapi.RequirementFlag.mutual_authentication, gssapi.RequirementFlag.replay_detection,
                 gssapi.RequirementFlag.integrity, gssapi.RequirementFlag.confidentiality]
        if sequence:
            flags.append(gssapi.RequirementFlag.out_of_sequence_detection)
        self.context = gssapi.SecurityContext(name=name, usage='initiate', flags=flags)

    def take(self, length):
        while len(self.buffer) < length:
            got = self.socket.recv(1 << 16)
            if not got:
                raise EOFError
            self.buffer += got
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def say(self, kind, token):
        self.socket.sendall(struct.pack('>BBH', 1, kind, len(token)) + token)

    def hear(self, kind):
        version, found = self.take(2)
        if found == 0xff:
            raise Refused
        assert (version, found) == (1, kind), (version, found)
        (length,) = struct.unpack('>H', self.take(2))
        return self.take(length)

    def greet(self):
        self.socket.sendall(b'\x05\x01\x01')
        assert self.take(2) == b'\x05\x01'

    def authenticate(self):
        self.greet()
        token = None
        while not self.context.complete:
            token = self.context.step(token)
            if token is not None:
                self.say(1, token)
            if not self.context.complete or token is not None:
                token = self.hear(1)

    def agree(self, nec=False):
        asked = bytes([self.level])
        self.say(2, asked if nec else self.context.wrap(asked, False).message)
        token = self.hear(2)
        agreed = token if nec else self.context.unwrap(token).message
        self.level = agreed[0]

    def frame(self, data):
        if self.level == 0:
            return data
        token = self.context.wrap(data, self.level > 1).message
        return struct.pack('>BBH', 1, 3, len(token)) + token

    def send(self, data):
        self.socket.sendall(self.frame(data))

    def receive(self):
        if self.level == 0:
            if self.buffer:
                taken, self.buffer = self.buffer, b''
                return taken
            return self.socket.recv(1 << 16)
        try:
            token = self.hear(3)
        except EOFError:
            assert not self.buffer
            return b''
        unwrapped = self.context.unwrap(token)
        assert unwrapped.encrypted == (self.level > 1), unwrapped
        return unwrapped.message

    def request(self, command, port):
        self.send(b'\x05' + bytes([command]) + b'\x00\x01' + socket.inet_aton('127.0.0.1' if port else '0.0.0.0')
                  + struct.pack('>H', port))
        reply = self.take(10) if self.level == 0 else self.receive()
        if reply[1]:
            raise Refused(reply[1])
        return socket.inet_ntoa(reply[4:8]), struct.unpack('>H', reply[8:10])[0]

    def connect(self, port):
        self.authenticate()
        self.agree()
        return self.request(1, port)


def serve(port, kind):
    """A server that returns what it gets: by datagrams, or by one connection up to its end."""
    server = socket.socket(socket.AF_INET, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(('127.0.0.1', port))

    def datagrams():
        while True:
            data, who = server.recvfrom(1 << 16)
            server.sendto(data.upper(), who)

    def stream():
        connection, _ = server.accept()
        try:
            while data := connection.recv(1 << 16):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except ConnectionResetError:
            pass

    if kind == socket.SOCK_STREAM:
        server.listen()
    threading.Thread(target=datagrams if kind == socket.SOCK_DGRAM else stream, daemon=True).start()


def echo(options):
    """Bytes there and back in messages of all sizes, and the end of one direction before the other's."""
    serve(9000, socket.SOCK_STREAM)
    client = Client(options.level)
    client.connect(9000)
    data = os.urandom(options.bytes)

    def send():
        at, number = 0, 0
        while at < len(data):
            length = [1, 100, 1400, 16384, 60000][number % 5]
            client.send(data[at:at + length])
            at, number = at + length, number + 1
        client.socket.shutdown(socket.SHUT_WR)

    # The context numbers messages of each direction by themselves; Python's lock keeps its calls apart.
    sender = threading.Thread(target=send)
    sender.start()
    got = hashlib.sha256()
    length = 0
    while part := client.receive():
        got.update(part)
        length += len(part)
    sender.join()
    return {'level': client.level, 'length': length, 'same': got.digest() == hashlib.sha256(data).digest(),
            'user': str(client.context.initiator_name)}


def download(options):
    """A file by HTTP."""
    client = Client(options.level)
    client.connect(8000)
    client.send(b'GET /file HTTP/1.0\r\n\r\n')
    page = b''
    while part := client.receive():
        page += part
    body = page.split(b'\r\n\r\n', 1)[1]
    return {'level': client.level, 'sha256': hashlib.sha256(body).hexdigest(), 'received': len(page)}


def datagrams(options):
    """Datagrams there and back, one of them twice, one without protection, one changed."""
    serve(9001, socket.SOCK_DGRAM)
    client = Client(options.level, sequence=False)
    client.authenticate()
    client.agree()
    relay = client.request(3, 0)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(('127.0.0.1', 0))
    udp.settimeout(20)
    header = b'\x00\x00\x00\x01\x7f\x00\x00\x01' + struct.pack('>H', 9001)
    answers = []
    for text in [b'one', b'two' * 300, b'']:
        packet = client.frame(header + text)
        udp.sendto(packet, relay)
        udp.sendto(packet, relay)
        udp.sendto(header + b'bare', relay)
        udp.sendto(packet[:-1] + bytes([packet[-1] ^ 1]), relay)
        answer, who = udp.recvfrom(1 << 16)
        assert who == relay and answer[:2] == b'\x01\x03', answer
        unwrapped = client.context.unwrap(answer[4:])
        assert unwrapped.encrypted == (client.level > 1)
        assert unwrapped.message == header + text.upper(), unwrapped.message
        answers.append(len(text))
    return {'level': client.level, 'answers': answers}


def refused(options):
    """What a refused client hears: `stage` says how far it came."""
    client = Client(options.level)
    stage = 'context'
    try:
        client.authenticate()
        stage = 'level'
        client.agree()
        stage = 'request'
        client.request(1, options.port)
        stage = 'served'
    except Refused as error:
        return {'refused': stage, 'reply': error.args[0] if error.args else None,
                'closed': client.socket.recv(1) == b''}
    return {'refused': None}


def replay(options):
    """The same first token on two connections."""
    first = Client(options.level)
    first.greet()
    token = first.context.step()
    first.say(1, token)
    first.hear(1)
    second = Client(options.level)
    second.greet()
    second.say(1, token)
    try:
        second.hear(1)
    except Refused:
        return {'refused': True}
    return {'refused': False}


def nec(options):
    client = Client(options.level)
    client.authenticate()
    client.agree(nec=True)
    client.request(1, 8000)
    client.send(b'HEAD /file HTTP/1.0\r\n\r\n')
    return {'level': client.level, 'answer': client.receive()[:8].decode()}


def hold(options):
    """A joined connection that lasts until it is ended from the other side."""
    serve(9000, socket.SOCK_STREAM)
    client = Client(options.level)
    client.connect(9000)
    client.send(b'here')
    assert client.receive() == b'here'
    print('joined', flush=True)
    try:
        got = client.receive()
    except ConnectionResetError:
        return {'end': 'reset'}
    return {'end': 'finished' if not got else 'data'}


def spoil(options):
    """A joined connection on which a message comes twice."""
    serve(9000, socket.SOCK_STREAM)
    client = Client(options.level)
    client.connect(9000)
    message = client.frame(b'once')
    client.socket.sendall(message)
    assert client.receive() == b'once'
    client.socket.sendall(message)
    try:
        client.receive()
    except ConnectionResetError:
        return {'end': 'reset'}
    return {'end': 'other'}


parser = argparse.ArgumentParser()
parser.add_argument('action')
parser.add_argument('--level', type=int, default=1)
parser.add_argument('--bytes', type=int, default=1_000_000)
parser.add_argument('--port', type=int, default=8000)
options = parser.parse_args()
print(json.dumps(globals()[options.action](options)))
sys.stdout.flush()
os._exit(0)
