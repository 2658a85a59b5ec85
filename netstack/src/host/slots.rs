//! Sockets as a bounded supply: made, listening, half open, reaped.

use super::{
    Connection, ConnectionId, DELIVERY_MS_MAX, Duration, HALF_OPEN_AGE_CROWDED_MS, HALF_OPEN_AGE_MAX_MS,
    HOST_ACCEPTS_PENDING_MAX, HOST_BUFFER_BYTES_MAX, HOST_SOCKETS_MAX, Host, HostError, RELEASE_MS_MAX, Role,
    TcpOptions, Vec, tcp, vec,
};

impl Host {
    /// Limits the buffer memory of all connections together, besides those of the guarded
    /// port: what is there stays.
    pub const fn limit_buffers(&mut self, bytes: usize) {
        self.buffer_limit = bytes;
    }

    /// Buffer memory of all connections together, besides those of the guarded port.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.unguarded().1
    }

    /// Connections that are not of the guarded port, and their buffer memory.
    fn unguarded(&self) -> (usize, usize) {
        let guarded = self.guard.map(|guard| guard.port);
        let others = self.connections.iter().filter(|it| guarded != Some(it.local_port));
        others.fold((0, 0), |(count, used), it| (count + 1, it.bytes.saturating_add(used)))
    }

    pub(super) fn add_socket(
        &mut self,
        local_port: u16,
        options: TcpOptions,
        role: Role,
    ) -> Result<ConnectionId, HostError> {
        let bytes = options.bytes();
        // What is guarded has a share of its own, which [`Self::admit`] counts.
        let guarded = |port: u16| self.guard.is_some_and(|guard| guard.port == port);
        let (count, used) = self.unguarded();
        let is_full = count >= HOST_SOCKETS_MAX
            || options.bytes().saturating_add(used) > self.buffer_limit.min(HOST_BUFFER_BYTES_MAX);
        if is_full && !guarded(local_port) || options.receive_bytes == 0 || options.transmit_bytes == 0 {
            return Err(HostError::Exhausted);
        }
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; options.receive_bytes]),
            tcp::SocketBuffer::new(vec![0; options.transmit_bytes]),
        );
        socket.set_keep_alive(Some(Duration::from_millis(options.keep_alive_ms)));
        socket.set_timeout(Some(Duration::from_millis(options.timeout_ms)));
        socket.set_congestion_control(tcp::CongestionControl::Reno);
        // Requests are written whole: waiting for more only adds latency.
        socket.set_nagle_enabled(false);
        let handle = self.sockets.add(socket);
        let id = ConnectionId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.connections.push(Connection { id, handle, local_port, bytes, role });
        Ok(id)
    }

    pub(super) fn remove(&mut self, id: ConnectionId) {
        if let Some(index) = self.connections.iter().position(|connection| connection.id == id) {
            let connection = self.connections.swap_remove(index);
            self.sockets.remove(connection.handle);
            self.outgoing.translations.forget(id);
        }
    }

    /// Keeps every listener's backlog full, as far as memory allows.
    pub(super) fn refill_backlogs(&mut self) {
        for index in 0..self.listeners.len() {
            while let Some(listener) = self.listeners.get(index) {
                let (port, options) = (listener.port, listener.options);
                let count = |wanted: fn(&Role) -> bool| {
                    self.connections
                        .iter()
                        .filter(|each| each.local_port == port && wanted(&each.role))
                        .count()
                };
                let waiting = count(|role| matches!(role, Role::Backlog { .. }));
                let pending = count(|role| *role == Role::Pending);
                if waiting >= listener.backlog || waiting + pending >= HOST_ACCEPTS_PENDING_MAX {
                    break;
                }
                let role = Role::Backlog { half_open_since_ms: None };
                let Ok(id) = self.add_socket(port, options, role) else { break };
                let listening = self
                    .handle(id)
                    .is_some_and(|it| self.sockets.get_mut::<tcp::Socket>(it).listen(port).is_ok());
                if !listening {
                    self.remove(id);
                    break;
                }
            }
        }
    }

    /// Moves connections on: handshakes completed, half-open too long, gone.
    pub(super) fn tend_connections(&mut self, now_ns: u64) {
        let now_ms = now_ns / 1_000_000;
        let mut dead = Vec::new();
        let mut half_open = Vec::new();
        for connection in &mut self.connections {
            let socket = self.sockets.get_mut::<tcp::Socket>(connection.handle);
            let state = socket.state();
            match &mut connection.role {
                Role::Backlog { half_open_since_ms } => match state {
                    tcp::State::Listen => *half_open_since_ms = None,
                    tcp::State::SynReceived => {
                        let since_ms = *half_open_since_ms.get_or_insert(now_ms);
                        half_open.push((since_ms, connection.id, connection.local_port));
                    }
                    tcp::State::Established | tcp::State::CloseWait => {
                        connection.role = Role::Pending;
                    }
                    _ => dead.push(connection.id),
                },
                Role::Pending if matches!(state, tcp::State::Closed) => dead.push(connection.id),
                Role::Released { since_ms } => {
                    let overdue = now_ms.saturating_sub(*since_ms) >= patience_ms(socket);
                    if overdue {
                        socket.abort();
                    }
                    let silent = socket.remote_endpoint().is_none();
                    if overdue || state == tcp::State::TimeWait || (state == tcp::State::Closed && silent) {
                        dead.push(connection.id);
                    }
                }
                Role::Pending | Role::Owned => {}
            }
        }
        self.reap_half_open(&half_open, now_ms, &mut dead);
        for id in dead {
            self.remove(id);
        }
        self.refill_backlogs();
    }

    /// One socket is one half-open slot, so a flood of SYNs must not hold them all:
    /// the oldest goes early when its listener has no free slot.
    fn reap_half_open(
        &mut self,
        half_open: &[(u64, ConnectionId, u16)],
        now_ms: u64,
        dead: &mut Vec<ConnectionId>,
    ) {
        for (since_ms, id, port) in half_open {
            if now_ms.saturating_sub(*since_ms) >= self.half_open_age_ms_max(*port) {
                self.counters.half_open_reaped = self.counters.half_open_reaped.wrapping_add(1);
                dead.push(*id);
            }
        }
    }

    fn half_open_age_ms_max(&self, port: u16) -> u64 {
        let listening = self
            .connections
            .iter()
            .any(|each| each.local_port == port && each.role == Role::Backlog { half_open_since_ms: None });
        if listening { HALF_OPEN_AGE_MAX_MS } else { HALF_OPEN_AGE_CROWDED_MS }
    }

    /// When [`Self::tend_connections`] has something to do if nothing happens before. Exact: a
    /// time at which it would do nothing makes the caller spin.
    pub(super) fn next_tending_ms(&self) -> Option<u64> {
        let due = self.connections.iter().filter_map(|connection| match connection.role {
            Role::Backlog { half_open_since_ms: Some(since_ms) } => {
                Some(since_ms.saturating_add(self.half_open_age_ms_max(connection.local_port)))
            }
            Role::Released { since_ms } => {
                let socket = self.sockets.get::<tcp::Socket>(connection.handle);
                Some(since_ms.saturating_add(patience_ms(socket)))
            }
            _ => None,
        });
        due.chain(self.callers.next_ms()).min()
    }
}

/// How long a released connection is kept for what it still has to deliver.
fn patience_ms(socket: &tcp::Socket<'_>) -> u64 {
    if socket.send_queue() == 0 { RELEASE_MS_MAX } else { DELIVERY_MS_MAX }
}
