//! The stack as a whole: prepared, started, stopped.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use image_tasks_local::{Coordinates, clouds};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::deployment::{self, Placement, SOURCE_BUCKET};
use super::emulator::{self, Emulator, Endpoints};
use super::layout::Layout;
use super::steps::Stop;
use super::terminal::Terminal;
use super::{Options, artifacts, keystone, proxy, tools, usage};

/// Everything that runs. [`RunningStack::stop`] ends it whatever was started.
pub(super) struct RunningStack {
    layout: Layout,
    terminal: Terminal,
    endpoints: Endpoints,
    placements: Vec<Placement>,
    /// Of the APIs, in the same order, until they are served.
    listeners: Vec<TcpListener>,
    /// Of Keystone, until it is served.
    keystone: Option<TcpListener>,
    emulators: Vec<Emulator>,
    /// The APIs and Keystone.
    served: Vec<JoinHandle<()>>,
    coordinates: Coordinates,
}

impl RunningStack {
    /// Takes the ports, ends what a killed runner left; starts nothing.
    pub(super) async fn prepare(
        layout: &Layout,
        options: &Options,
        tests: bool,
        terminal: &Terminal,
    ) -> Result<Self> {
        emulator::end_stale(layout)?;
        let _stale = fs::remove_file(coordinates_path(layout));
        let (endpoints, keystone) = free_endpoints(options).await?;
        let (mut placements, mut listeners) = (Vec::new(), Vec::new());
        for (port, region) in (options.port..).zip(&options.regions(tests)) {
            let listener = listen(port, "--port").await?;
            let port = listener.local_addr()?.port();
            placements.push(Placement::new(region, port, placements.is_empty(), tests));
            listeners.push(listener);
        }
        let coordinates = Coordinates {
            aws_endpoint: endpoints.aws(),
            s3_endpoint: endpoints.s3(),
            keystone_endpoint: format!("http://{}", keystone.local_addr()?),
            clouds: layout.clouds(),
            tools: layout.tools(),
            command_line: PathBuf::new(),
            source_bucket: SOURCE_BUCKET.to_owned(),
            export_bucket: placements.first().context("no region to deploy to")?.export_bucket.clone(),
            glance_address: endpoints.glance(),
            logs: layout.logs(),
            deployments: Vec::new(),
        };
        Ok(Self {
            layout: layout.clone(),
            terminal: *terminal,
            endpoints,
            placements,
            listeners,
            keystone: Some(keystone),
            emulators: Vec::new(),
            served: Vec::new(),
            coordinates,
        })
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn coordinates(&self) -> &Coordinates {
        &self.coordinates
    }

    pub(super) fn coordinates_path(&self) -> PathBuf {
        coordinates_path(&self.layout)
    }

    /// Installs and starts the emulators while cargo builds, deploys, serves.
    pub(super) async fn start(&mut self, build_tests: bool, stop: &Stop) -> Result<()> {
        let (layout, terminal) = (self.layout.clone(), self.terminal);
        let build = async {
            terminal
                .line("Building the functions: cargo build --workspace (minutes when nothing is built yet)");
            let built = artifacts::build(&layout, build_tests, stop).await?;
            let template = artifacts::lay_out(&layout, &built.functions, &terminal)?;
            Ok((template, built.command_line))
        };
        let ((template, command_line), ()) = tokio::try_join!(build, self.start_emulators(stop))?;
        self.coordinates.command_line = command_line;
        let names: Vec<&str> = self.placements.iter().map(|one| one.region.as_str()).collect();
        terminal.line(format!("Deploying template.yaml to {} (sam deploy)", names.join(" and ")));
        // At once: each takes seconds, and regions share nothing.
        try_join_all(self.placements.iter().map(|placement| {
            deployment::deploy(&self.layout, &self.endpoints, &template, placement, &self.placements, stop)
        }))
        .await?;
        if self.placements.len() > 1 {
            terminal.line("Making the regions known to each other (sam deploy again)");
            deployment::connect(&self.layout, &self.endpoints, &template, &self.placements, stop).await?;
        }
        for (placement, listener) in self.placements.iter().zip(self.listeners.drain(..)) {
            let deployed = deployment::finish(&self.layout, &self.endpoints, placement, stop).await?;
            let api =
                deployed.of_type("AWS::ApiGatewayV2::Api").next().context("the template has no HTTP API")?;
            self.served.push(proxy::serve(listener, self.endpoints.aws_port, api)?);
            terminal.line(format!("The API of {} is at {}", deployed.region, deployed.endpoint));
            self.coordinates.deployments.push(deployed);
        }
        self.serve_keystone()?;
        fs::write(self.coordinates_path(), serde_json::to_vec_pretty(&self.coordinates)?)?;
        Ok(())
    }

    /// Keystone, and the files that lead clients to it.
    fn serve_keystone(&mut self) -> Result<()> {
        let Some(listener) = self.keystone.take() else { return Ok(()) };
        let endpoint = &self.coordinates.keystone_endpoint;
        let images: Vec<_> = self
            .coordinates
            .deployments
            .iter()
            .map(|one| (one.region.clone(), one.endpoint.clone()))
            .collect();
        let (first, _) = images.first().context("nothing is deployed")?;
        let regions: Vec<&str> = images.iter().map(|(region, _)| region.as_str()).collect();
        fs::write(self.layout.clouds(), clouds(endpoint, &regions))?;
        fs::write(self.layout.openrc(), usage::openrc(endpoint, first)?)?;
        self.served.push(keystone::serve(listener, endpoint, &images));
        self.terminal.line(format!("Keystone is at {endpoint}/v3"));
        Ok(())
    }

    async fn start_emulators(&mut self, stop: &Stop) -> Result<()> {
        tools::install(&self.layout, tools::OF_THE_STACK, &self.terminal, stop).await?;
        // Emptied here and not at the end: what a killed emulator left goes too.
        fs::remove_dir_all(self.layout.home())?;
        fs::create_dir_all(self.layout.home())?;
        let (aws, s3) = (self.endpoints.aws(), self.endpoints.s3());
        self.terminal.line(format!("Starting MiniStack on {aws} and LocalStack's S3 on {s3}"));
        self.emulators.push(Emulator::ministack(&self.layout, &self.endpoints)?);
        self.emulators.push(Emulator::s3(&self.layout, &self.endpoints)?);
        for emulator in &mut self.emulators {
            stop.or(emulator.ready()).await?;
        }
        self.terminal.line("The emulators are ready");
        Ok(())
    }

    /// Ends everything that was started and returns when it is gone.
    pub(super) async fn stop(mut self) {
        self.terminal.line("Stopping");
        for served in &self.served {
            served.abort();
        }
        for deployed in &self.coordinates.deployments {
            deployment::save_function_logs(&self.layout, &self.endpoints, &deployed.region).await;
        }
        for emulator in self.emulators.drain(..) {
            emulator.stop().await;
        }
        for written in [self.coordinates_path(), self.layout.clouds(), self.layout.openrc()] {
            let _gone = fs::remove_file(written);
        }
    }
}

fn coordinates_path(layout: &Layout) -> PathBuf {
    layout.run().join("stack.json")
}

async fn listen(port: u16, flag: &str) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.with_context(|| {
        format!("port {port} can't be used: end what listens there, or choose another with {flag}")
    })
}

/// Ports that are free now, for those who listen there only minutes later; and Keystone's listener.
async fn free_endpoints(options: &Options) -> Result<(Endpoints, TcpListener)> {
    // Held until all are chosen, so that no two are the same.
    let aws = listen_later(options.aws_port, "--aws-port").await?;
    let s3 = listen_later(options.s3_port, "--s3-port").await?;
    let glance = listen_later(0, "").await?;
    let keystone = listen_later(options.keystone_port, "--keystone-port").await?;
    let endpoints = Endpoints {
        aws_port: aws.local_addr()?.port(),
        s3_port: s3.local_addr()?.port(),
        glance_port: glance.local_addr()?.port(),
    };
    Ok((endpoints, keystone))
}

/// Ports that no system hands out by itself: Linux does from 32,768 on, macOS and Windows from 49,152.
/// A free port of those may be any connection's a moment later.
const NEVER_HANDED_OUT: std::ops::Range<u16> = 20_000..32_000;

/// The port if it is free, for 0 a free one that stays free.
async fn listen_later(port: u16, flag: &str) -> Result<TcpListener> {
    if port != 0 {
        return listen(port, flag).await;
    }
    // Runners that start together begin their search at places of their own.
    let own = usize::try_from(std::process::id()).unwrap_or_default() * 7 % NEVER_HANDED_OUT.len();
    for port in NEVER_HANDED_OUT.skip(own).chain(NEVER_HANDED_OUT.take(own)) {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            return Ok(listener);
        }
    }
    anyhow::bail!("no port of {NEVER_HANDED_OUT:?} is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_for_later_is_none_that_a_connection_may_be_given() {
        let mut held = Vec::new();
        for _ in 0..50 {
            held.push(listen_later(0, "").await.unwrap());
        }
        assert!(held.iter().all(|one| NEVER_HANDED_OUT.contains(&one.local_addr().unwrap().port())));
    }
}
