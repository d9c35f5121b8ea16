//! Proxies, configured to pass a request on with the id of the call, and to log both.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{sources, truth_log};
use crate::truth::{self, Event};

const APACHE_MODULES: &str = "/usr/lib/apache2/modules";

/// Role of an Apache, with one of its three ways to work.
#[derive(Clone, Copy, Debug)]
pub(super) enum Apache {
    /// Processes with PHP in them.
    Prefork,
    /// Threads with Python in them.
    Worker,
    /// Threads behind a loop, as a proxy.
    Event(SocketAddr),
}

pub(super) fn apache(what: Apache, name: &str, address: SocketAddr, directory: &Path) -> Result<Command> {
    // Apache does not serve as root. Its processes run as nobody, who cannot read our sources.
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777))?;
    for file in ["router.php", "app.py"] {
        std::fs::copy(sources().join(file), directory.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    let here = directory.display();
    let (modules, work) = apache_work(what, name, directory);
    let load = |module: &&str| {
        let file = if *module == "php" {
            php_module()?
        } else {
            PathBuf::from(format!("{APACHE_MODULES}/mod_{module}.so"))
        };
        Ok(format!("LoadModule {module}_module {}", file.display()))
    };
    let modules = modules.iter().map(load).collect::<Result<Vec<_>>>()?.join("\n");
    let config = format!(
        "ServerName localhost\nServerRoot \"{here}\"\nDefaultRuntimeDir \"{here}\"\nPidFile \"{here}/pid\"
        Listen {address}\nUser nobody\nGroup nogroup\nErrorLog \"{here}/output.log\"
        {modules}\nDocumentRoot \"{here}\"\n{work}\n"
    );
    let file = directory.join("apache.conf");
    std::fs::write(&file, config)?;
    let mut command = Command::new("apache2");
    command.arg("-DFOREGROUND").arg("-f").arg(file);
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("HTTP_CLIENT", "curl");
    Ok(command)
}

/// Returns the modules of an Apache, and its directives.
fn apache_work(what: Apache, name: &str, directory: &Path) -> (&'static [&'static str], String) {
    let here = directory.display();
    match what {
        Apache::Prefork => (
            &["mpm_prefork", "php", "alias", "authz_core"],
            // A process keeps its connection, so there are as many processes as connections.
            format!(
                "StartServers 40\nMinSpareServers 1\nMaxSpareServers 64\nServerLimit 64\nMaxRequestWorkers 64
                AliasMatch \"^/\" \"{here}/router.php\"
                <Directory \"{here}\">
                Require all granted
                SetHandler application/x-httpd-php
                </Directory>"
            ),
        ),
        Apache::Worker => (
            &["mpm_worker", "wsgi", "authz_core"],
            format!(
                "StartServers 3\nThreadsPerChild 16\nServerLimit 4\nMaxRequestWorkers 64
                WSGIPythonPath \"{here}\"
                WSGICallableObject app
                WSGIApplicationGroup %{{GLOBAL}}
                WSGIScriptAlias / \"{here}/app.py\"
                <Directory \"{here}\">
                Require all granted
                </Directory>"
            ),
        ),
        Apache::Event(upstream) => (
            &["mpm_event", "proxy", "proxy_http", "headers", "setenvif", "authz_core"],
            format!(
                "StartServers 2\nThreadsPerChild 32\nServerLimit 4\nMaxRequestWorkers 128
                SetEnvIf X-Request-Id \"^(.*)$\" request_id=$1
                RequestHeader set X-Request-Id \"%{{request_id}}e.1\"
                ProxyPass / http://{upstream}/
                LogFormat \"P {name} %{{request_id}}e %>s %>s\" truth
                CustomLog \"{}\" truth",
                truth_log(directory).display()
            ),
        ),
    }
}

/// Returns the path of `libphp8.2.so`, of any version.
fn php_module() -> Result<PathBuf> {
    let entries = std::fs::read_dir(APACHE_MODULES).with_context(|| format!("cannot list {APACHE_MODULES}"))?;
    let is_php = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libphp") && name.ends_with(".so")
    };
    let found = entries.filter_map(|entry| Some(entry.ok()?.path())).find(is_php);
    found.context("Apache has no module of PHP: is libapache2-mod-php installed?")
}

pub(super) fn caddy(address: SocketAddr, upstream: SocketAddr, directory: &Path) -> Result<Command> {
    let config = format!(
        "{{
    admin off
    auto_https off
}}
http://:{port} {{
    bind {ip}
    log {{
        output file {log} {{
            roll_disabled
        }}
        format json
    }}
    reverse_proxy {upstream} {{
        header_up X-Request-Id \"{{http.request.header.X-Request-Id}}.1\"
    }}
}}
",
        port = address.port(),
        ip = address.ip(),
        log = caddy_log(directory).display(),
    );
    let file = directory.join("Caddyfile");
    std::fs::write(&file, config)?;
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command.env("HOME", directory);
    command
        .env("XDG_DATA_HOME", directory)
        .env("XDG_CONFIG_HOME", directory);
    Ok(command)
}

/// Returns the path of Caddy's log, which is always JSON of its own form.
fn caddy_log(directory: &Path) -> PathBuf {
    directory.join("access.json")
}

/// Reads Caddy's log.
pub(super) fn caddy_truth(name: &str, directory: &Path) -> Result<Vec<Event>> {
    let text = std::fs::read_to_string(caddy_log(directory)).unwrap_or_default();
    // The last line may be incomplete.
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let line = |line: &str| {
        let entry: Value = serde_json::from_str(line).ok()?;
        let headers = entry.get("request")?.get("headers")?;
        let id = headers.get("X-Request-Id")?.get(0)?.as_str()?;
        let status = entry.get("status")?.as_u64()?;
        Some(format!("P {name} {id} {status} {status}\n"))
    };
    let lines = whole
        .lines()
        .map(|text| line(text).with_context(|| format!("{text:?} is no line of Caddy's log")));
    truth::parse(&lines.collect::<Result<String>>()?)
}

pub(super) fn lighttpd(name: &str, address: SocketAddr, upstream: SocketAddr, directory: &Path) -> Result<Command> {
    let change = directory.join("id.lua");
    std::fs::write(
        &change,
        "local headers = lighty.r.req_header
headers['X-Original-Id'] = headers['X-Request-Id']
headers['X-Request-Id'] = headers['X-Request-Id'] .. '.1'
",
    )?;
    let config = format!(
        "server.modules = ( \"mod_magnet\", \"mod_proxy\", \"mod_accesslog\" )
server.bind = \"{ip}\"
server.port = {port}
server.document-root = \"{here}\"
server.errorlog = \"{here}/output.log\"
magnet.attract-raw-url-to = ( \"{change}\" )
proxy.server = ( \"\" => (( \"host\" => \"{up_ip}\", \"port\" => {up_port} )) )
accesslog.format = \"P {name} %{{X-Original-Id}}i %s %s\"
accesslog.filename = \"{log}\"
",
        ip = address.ip(),
        port = address.port(),
        here = directory.display(),
        change = change.display(),
        up_ip = upstream.ip(),
        up_port = upstream.port(),
        log = truth_log(directory).display(),
    );
    let file = directory.join("lighttpd.conf");
    std::fs::write(&file, config)?;
    let mut command = Command::new("lighttpd");
    command.arg("-D").arg("-f").arg(file);
    Ok(command)
}

pub(super) fn varnish(address: SocketAddr, upstream: SocketAddr, directory: &Path) -> Result<Command> {
    let config = directory.join("varnish.vcl");
    std::fs::write(
        &config,
        format!(
            "vcl 4.1;
backend leaf {{ .host = \"{}\"; .port = \"{}\"; }}
sub vcl_recv {{ return (pass); }}
sub vcl_backend_fetch {{ set bereq.http.x-request-id = bereq.http.x-request-id + \".1\"; }}
",
            upstream.ip(),
            upstream.port()
        ),
    )?;
    let mut command = Command::new("varnishd");
    command.arg("-F").arg("-n").arg(varnish_home(directory));
    // The shared memory must hold all log entries until they are read.
    command.args(["-j", "none", "-s", "malloc,16m", "-l", "200m"]);
    command.args(["-a", &address.to_string(), "-f"]).arg(config);
    Ok(command)
}

fn varnish_home(directory: &Path) -> PathBuf {
    directory.join("varnish")
}

/// Reads the log in Varnish's shared memory.
pub(super) fn varnish_truth(name: &str, directory: &Path) -> Result<Vec<Event>> {
    let mut command = Command::new("varnishncsa");
    command.arg("-n").arg(varnish_home(directory));
    let output = command
        .args(["-d", "-F", &format!("P {name} %{{x-request-id}}i %s %s")])
        .output()
        .context("cannot run varnishncsa")?;
    ensure!(output.status.success(), "varnishncsa failed: {output:?}");
    truth::parse(&String::from_utf8_lossy(&output.stdout))
}

pub(super) fn envoy(name: &str, address: SocketAddr, upstream: SocketAddr, directory: &Path) -> Result<Command> {
    let file = directory.join("envoy.yaml");
    std::fs::write(&file, envoy_config(name, address, upstream, directory))?;
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/tools/bin/envoy");
    let mut command = if own.exists() {
        Command::new(own)
    } else {
        Command::new("envoy")
    };
    command.arg("-c").arg(file);
    command.args([
        "--concurrency",
        "2",
        "--disable-hot-restart",
        "--log-level",
        "warn",
        "--file-flush-interval-msec",
        "50",
    ]);
    Ok(command)
}

fn envoy_config(name: &str, address: SocketAddr, upstream: SocketAddr, directory: &Path) -> String {
    format!(
        r#"static_resources:
  listeners:
  - address: {{socket_address: {{address: {ip}, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          generate_request_id: false
          preserve_external_request_id: true
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: "{log}"
              log_format:
                text_format_source:
                  inline_string: "P {name} %REQ(X-ORIGINAL-ID)% %RESPONSE_CODE% %RESPONSE_CODE%\n"
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              request_headers_to_add:
              - {{header: {{key: x-original-id, value: "%REQ(x-request-id)%"}}}}
              - header: {{key: x-request-id, value: "%REQ(x-request-id)%.1"}}
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              routes:
              - {{match: {{prefix: "/"}}, route: {{cluster: leaf}}}}
  clusters:
  - name: leaf
    load_assignment:
      cluster_name: leaf
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {up_ip}, port_value: {up_port}}}}}}}
"#,
        ip = address.ip(),
        port = address.port(),
        log = truth_log(directory).display(),
        up_ip = upstream.ip(),
        up_port = upstream.port(),
    )
}

pub(super) fn php_fpm(name: &str, address: SocketAddr, directory: &Path) -> Result<Command> {
    let here = directory.display();
    let pools = directory.join("fpm.conf");
    std::fs::write(
        &pools,
        format!(
            "[global]\nerror_log = {here}/output.log\ndaemonize = no
[www]\nlisten = {here}/fpm.socket\nuser = root\ngroup = root\nclear_env = no\npm = static\npm.max_children = 16\n"
        ),
    )?;
    let location = format!(
        "access_log off; fastcgi_pass unix:{here}/fpm.socket; fastcgi_param SCRIPT_FILENAME {router}; fastcgi_param REQUEST_URI $request_uri; \
        fastcgi_param REQUEST_METHOD $request_method; fastcgi_param HTTP_X_REQUEST_ID $http_x_request_id;",
        router = sources().join("router.php").display(),
    );
    // PHP logs the requests; nginx must not log them again.
    let nginx = super::nginx(name, address, directory, ("S", ""), "", &location)?;
    let script = "fpm=$(ls /usr/sbin/php-fpm* | tail -n 1)
        setpriv --pdeathsig TERM \"$fpm\" --nodaemonize --allow-to-run-as-root --fpm-config \"$1\" &
        until [ -S \"$2\" ]; do sleep 0.05; done
        shift 2; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(pools);
    command.arg(directory.join("fpm.socket"));
    command.arg(nginx.get_program()).args(nginx.get_args());
    command.env("HTTP_CLIENT", "curl");
    Ok(command)
}
