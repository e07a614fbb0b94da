import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;

/**
 * Clients in Java's own ways: {@code java Captured.java NAME PORT SOURCE_PORT}.
 *
 * Java's IPv4 sockets are IPv6 ones that connect to ::ffff:ADDRESS.  Each way prints its name, the
 * address that Java sees, and the first line that the service says.
 */
class Captured {
    public static void main(String[] words) throws Exception {
        int port = Integer.parseInt(words[1]);
        for (InetAddress address : InetAddress.getAllByName(words[0])) {
            InetSocketAddress to = new InetSocketAddress(address, port);
            String family = address.getAddress().length == 4 ? "four" : "six";
            blocking(family, new Socket(), to);
            nonBlocking(family + "-nio", to);
            if (family.equals("four")) {
                Socket bound = new Socket();
                bound.setReuseAddress(true);
                bound.bind(new InetSocketAddress(Integer.parseInt(words[2])));
                blocking("bound", bound, to);
            }
        }
    }

    static void blocking(String way, Socket socket, InetSocketAddress to) throws Exception {
        try (socket) {
            socket.setKeepAlive(true);
            socket.setTrafficClass(0x10);
            socket.connect(to, 10_000);
            socket.setSoTimeout(10_000);
            BufferedReader reader = new BufferedReader(
                new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8));
            tell(way, socket.getInetAddress(), reader.readLine());
        }
    }

    static void nonBlocking(String way, InetSocketAddress to) throws Exception {
        try (Selector selector = Selector.open(); SocketChannel channel = SocketChannel.open()) {
            channel.configureBlocking(false);
            SelectionKey key = channel.register(selector, SelectionKey.OP_CONNECT);
            if (!channel.connect(to)) {
                selector.select(10_000);
                channel.finishConnect();
            }
            key.interestOps(SelectionKey.OP_READ);
            ByteBuffer buffer = ByteBuffer.allocate(4096);
            String line = "";
            while (!line.endsWith("\n") && selector.select(10_000) > 0 && channel.read(buffer) >= 0) {
                line = new String(buffer.array(), 0, buffer.position(), StandardCharsets.UTF_8);
            }
            tell(way, ((InetSocketAddress) channel.getRemoteAddress()).getAddress(), line.strip());
        }
    }

    static void tell(String way, InetAddress remote, String answer) {
        System.out.printf("{\"way\": \"%s\", \"remote\": \"%s\", \"answer\": %s}%n",
            way, remote.getHostAddress(), answer);
    }
}
