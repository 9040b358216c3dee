//! The SOCKS5 server of the crate fast-socks5, as its own example sets it up, for comparisons with it.

use clap::Parser;
use fast_socks5::server::{DnsResolveHelper as _, Socks5ServerProtocol, run_tcp_proxy, run_udp_proxy};
use fast_socks5::{ReplyError, Socks5Command, SocksError};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Serve SOCKS5 by fast-socks5: users log in by name and password.
#[derive(Parser)]
#[command(name = "socks-peer")]
struct Options {
    /// Address and port to listen on; what the server relays datagrams on has the same address.
    #[arg(long)]
    listen: SocketAddr,
    /// User name.
    #[arg(long)]
    user: String,
    /// Password.
    #[arg(long)]
    password: String,
}

fn main() -> ExitCode {
    let options = Arc::new(Options::parse());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| runtime.block_on(serve(options)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("socks-peer: {error}");
            ExitCode::from(2)
        }
    }
}

async fn serve(options: Arc<Options>) -> std::io::Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let options = options.clone();
        // How a connection ends is its client's to judge.
        tokio::spawn(async move { drop(connection(&options, stream).await) });
    }
}

async fn connection(options: &Options, stream: TcpStream) -> Result<(), SocksError> {
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    let (proto, _) = Socks5ServerProtocol::accept_password_auth(stream, |user, password| {
        user == options.user && password == options.password
    })
    .await?;
    let (proto, command, target) = proto.read_command().await?.resolve_dns().await?;
    match command {
        Socks5Command::TCPConnect => {
            run_tcp_proxy(proto, &target, CONNECT_TIMEOUT, true).await?;
        }
        Socks5Command::UDPAssociate => {
            run_udp_proxy(proto, &target, None, options.listen.ip(), None).await?;
        }
        Socks5Command::TCPBind => {
            proto.reply_error(&ReplyError::CommandNotSupported).await?;
        }
    }
    Ok(())
}
