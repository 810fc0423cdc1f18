//! Application servers behind the gateway: nginx, Apache httpd, Python, Tomcat.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::gateway::START_LIMIT;
use crate::children::{Running, TemporaryFolder, free_tcp_port, loopback};
use crate::shell::{Fallible, find_program, workspace};

/// A server and where it is.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) running: Running,
}

impl Server {
    fn start(name: &str, command: &mut Command, folder: &TemporaryFolder, address: SocketAddr) -> Fallible<Self> {
        let mut running = Running::start(name, command, folder)?;
        running.wait_for(address, START_LIMIT)?;
        Ok(Self { address, running })
    }
}

/// nginx on this address with these lines in its server block.
pub(crate) fn nginx(folder: &TemporaryFolder, address: SocketAddr, lines: &str) -> Fallible<Server> {
    nginx_listening(folder, address, &format!("listen {address} backlog=4096; {lines}"))
}

/// The same over TLS; `lines` name the certificate.
pub(crate) fn secure_nginx(folder: &TemporaryFolder, address: SocketAddr, lines: &str) -> Fallible<Server> {
    nginx_listening(folder, address, &format!("listen {address} ssl; {lines}"))
}

fn nginx_listening(folder: &TemporaryFolder, address: SocketAddr, lines: &str) -> Fallible<Server> {
    let place = folder.path().join(format!("nginx-{}", address.port()));
    std::fs::create_dir_all(&place)?;
    let at = place.display();
    let config = format!(
        "daemon off;
worker_processes 1;
pid {at}/pid;
events {{ worker_connections 8192; }}
http {{
  types {{ text/html html; text/plain txt; }}
  default_type application/octet-stream;
  client_body_temp_path {at}/body;
  proxy_temp_path {at}/proxy;
  fastcgi_temp_path {at}/fastcgi;
  uwsgi_temp_path {at}/uwsgi;
  scgi_temp_path {at}/scgi;
  access_log off;
  server {{ {lines} }}
}}
"
    );
    let config = folder.write(&format!("nginx-{}/nginx.conf", address.port()), config)?;
    let mut command = Command::new(find_program("nginx").unwrap_or_else(|| "nginx".into()));
    command.arg("-c").arg(config).arg("-p").arg(&place).args(["-e", "stderr"]);
    Server::start("nginx", &mut command, folder, address)
}

/// Apache httpd on a free TCP port of 127.0.0.1, serving `documents`.
pub(crate) fn apache(folder: &TemporaryFolder, documents: &Path) -> Fallible<Server> {
    let address = loopback(free_tcp_port()?);
    let modules: String = ["mpm_event", "authz_core", "mime", "filter", "deflate", "dir"]
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .concat();
    let config = format!(
        "{modules}ServerRoot {folder}
ServerName interop
PidFile {folder}/apache.pid
DefaultRuntimeDir {folder}
Listen {address}
User nobody
Group nogroup
ErrorLog /dev/stderr
TypesConfig /etc/mime.types
AddType text/html .html
DocumentRoot {documents}
KeepAlive On
MaxKeepAliveRequests 7
KeepAliveTimeout 1
AddOutputFilterByType DEFLATE text/html
<Directory {documents}>
  Require all granted
</Directory>
",
        folder = folder.path().display(),
        documents = documents.display(),
    );
    let config = folder.write("apache.conf", config)?;
    let mut command = Command::new(find_program("apache2").unwrap_or_else(|| "apache2".into()));
    command.arg("-DFOREGROUND").arg("-f").arg(config);
    Server::start("apache", &mut command, folder, address)
}

/// One of the Python servers of the interop folder on a free TCP port.
pub(crate) fn python(folder: &TemporaryFolder, environment: &Path, script: &str) -> Fallible<Server> {
    let address = loopback(free_tcp_port()?);
    let mut command = Command::new(environment.join("python"));
    command.arg("-B").arg(script_path(script)).args([address.ip().to_string(), address.port().to_string()]);
    Server::start(script, &mut command, folder, address)
}

pub(crate) fn script_path(name: &str) -> PathBuf {
    workspace().join("interop").join(name)
}

/// What a private Tomcat is to be.
pub(crate) struct Tomcat<'a> {
    pub(crate) address: SocketAddr,
    /// Name of the application: its path, too.
    pub(crate) application: &'a str,
    /// The application's folder.
    pub(crate) documents: &'a Path,
    pub(crate) threads: u32,
    /// Network namespace to run in; `None` is our own.
    pub(crate) namespace: Option<&'a str>,
    /// The gateway, as the application reaches it.
    pub(crate) front: &'a str,
}

/// Starts Debian's Tomcat with a base folder of its own. It does not wait until it answers.
pub(crate) fn start_tomcat(folder: &TemporaryFolder, tomcat: &Tomcat<'_>) -> Fallible<Running> {
    let base = folder.path().join(format!("tomcat-{}-{}", tomcat.address.ip(), tomcat.address.port()));
    for part in ["conf", "logs", "temp", "work", "webapps"] {
        std::fs::create_dir_all(base.join(part))?;
    }
    std::fs::copy(workspace().join("interop/tomcat/server.xml"), base.join("conf/server.xml"))?;
    std::fs::copy("/etc/tomcat10/web.xml", base.join("conf/web.xml"))?;
    let options = format!(
        "-Xmx256m -Djava.awt.headless=true -Dsumun.address={} -Dsumun.port={} -Dsumun.threads={} \
         -Dsumun.application={} -Dsumun.folder={} -Dsumun.front={}",
        tomcat.address.ip(),
        tomcat.address.port(),
        tomcat.threads,
        tomcat.application,
        tomcat.documents.display(),
        tomcat.front,
    );
    let mut command = match tomcat.namespace {
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]);
            command.arg("/usr/share/tomcat10/bin/catalina.sh");
            command
        }
        None => Command::new("/usr/share/tomcat10/bin/catalina.sh"),
    };
    command.arg("run").env("CATALINA_HOME", "/usr/share/tomcat10").env("CATALINA_BASE", &base);
    command.env("CATALINA_OPTS", options);
    Running::start("tomcat", &mut command, folder)
}

/// A Tomcat with the examples that Debian packages, answering.
pub(crate) fn tomcat_examples(folder: &TemporaryFolder) -> Fallible<Server> {
    let address = loopback(free_tcp_port()?);
    let mut running = start_tomcat(
        folder,
        &Tomcat {
            address,
            application: "examples",
            documents: Path::new("/usr/share/tomcat10-examples/examples"),
            threads: 50,
            namespace: None,
            front: "",
        },
    )?;
    running.wait_for(address, 2 * START_LIMIT)?;
    Ok(Server { address, running })
}
