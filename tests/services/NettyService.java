import io.netty.bootstrap.Bootstrap;
import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.Unpooled;
import io.netty.channel.Channel;
import io.netty.channel.ChannelFuture;
import io.netty.channel.ChannelFutureListener;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.channel.socket.nio.NioSocketChannel;
import io.netty.handler.codec.http.DefaultFullHttpRequest;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpClientCodec;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.codec.http.HttpVersion;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.TimeUnit;

/** A service of one Netty loop (see README.md): a request waits for a second; a task beside it calls URL every 100 ms. */
public class NettyService {
    static final int BODY_BYTES = 1 << 16;

    public static void main(String[] arguments) throws Exception {
        URI url = URI.create(System.getenv("URL"));
        EventLoopGroup loop = new NioEventLoopGroup(1);
        new ServerBootstrap()
            .group(loop)
            .channel(NioServerSocketChannel.class)
            .childHandler(new ChannelInitializer<SocketChannel>() {
                @Override
                protected void initChannel(SocketChannel channel) {
                    channel.pipeline().addLast(new HttpServerCodec(), new HttpObjectAggregator(BODY_BYTES), new Wait());
                }
            })
            .bind("127.0.0.1", Integer.parseInt(System.getenv("PORT")))
            .sync();
        int[] number = {0};
        loop.scheduleWithFixedDelay(() -> call(loop, url, number[0]++), 100, 100, TimeUnit.MILLISECONDS);
    }

    static void call(EventLoopGroup loop, URI url, int number) {
        new Bootstrap()
            .group(loop)
            .channel(NioSocketChannel.class)
            .handler(new ChannelInitializer<SocketChannel>() {
                @Override
                protected void initChannel(SocketChannel channel) {
                    channel.pipeline().addLast(new HttpClientCodec(), new HttpObjectAggregator(BODY_BYTES), new Close());
                }
            })
            .connect(url.getHost(), url.getPort())
            .addListener(connected -> {
                if (connected.isSuccess()) {
                    Channel channel = ((ChannelFuture) connected).channel();
                    FullHttpRequest request =
                        new DefaultFullHttpRequest(HttpVersion.HTTP_1_1, HttpMethod.GET, url.getPath());
                    request.headers().set("Host", "leaf").set("x-request-id", "background-" + number);
                    channel.writeAndFlush(request);
                }
            });
    }

    static class Wait extends SimpleChannelInboundHandler<FullHttpRequest> {
        @Override
        protected void channelRead0(ChannelHandlerContext context, FullHttpRequest request) {
            Runnable answer = () -> {
                FullHttpResponse response = new DefaultFullHttpResponse(
                    HttpVersion.HTTP_1_1,
                    HttpResponseStatus.OK,
                    Unpooled.copiedBuffer("waited", StandardCharsets.US_ASCII));
                response.headers().set("Content-Length", 6);
                context.writeAndFlush(response).addListener(ChannelFutureListener.CLOSE);
            };
            context.executor().schedule(answer, 1, TimeUnit.SECONDS);
        }
    }

    static class Close extends SimpleChannelInboundHandler<FullHttpResponse> {
        @Override
        protected void channelRead0(ChannelHandlerContext context, FullHttpResponse response) {
            context.close();
        }
    }
}
