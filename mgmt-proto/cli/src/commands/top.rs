//! `redoubt top`.

use crate::arguments::{FormName, Top};
use crate::scope::{Reader, Scope, print};
use mgmt_proto::code::{Code, Failure};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Cell, Paragraph, Row as Line, Table};
use redoubt::Connection;
use redoubt::answer::Answer;
use redoubt::top::{HEADERS, Order, Sample, Screen};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How long a look may take on the live screen, unless told otherwise.
const LIVE_TIMEOUT_SECONDS: u64 = 5;

/// Two looks at one node.
pub(crate) fn once(scope: &Scope<'_>, options: &Top) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let before = Sample::take(&mut connection)?;
    std::thread::sleep(Duration::from_secs(options.delay));
    let after = Sample::take(&mut connection)?;
    Ok(Screen::new(connection.address(), &before, &after, Order::Cpu).answer())
}

/// Without a terminal one look is what a script wants.
pub(crate) fn run(scope: &Scope<'_>, options: &Top) -> Result<(), Failure> {
    let live = !options.batch && options.count.is_none() && scope.global.output == FormName::Table;
    if live && std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        return show(scope, options);
    }
    let count = options.count.or((!options.batch).then_some(1)).unwrap_or(u64::MAX);
    let mut connection = scope.open()?;
    let mut before = Sample::take(&mut connection)?;
    for _ in 0..count {
        std::thread::sleep(Duration::from_secs(options.delay));
        let after = Sample::take(&mut connection)?;
        let screen = Screen::new(connection.address(), &before, &after, Order::Cpu);
        let text = match scope.global.output {
            FormName::Json => format!("{}\n", screen.json_line()),
            FormName::Yaml => format!("---\n{}", screen.answer().render(scope.global.output.into())),
            form => screen.answer().render(form.into()),
        };
        if print(&text)? == Reader::Gone {
            return Ok(());
        }
        before = after;
    }
    Ok(())
}

/// What the screen is made of.
struct View {
    address: String,
    screen: Option<Screen>,
    order: Order,
    /// What went wrong last, while trying again.
    trouble: Option<String>,
}

fn show(scope: &Scope<'_>, options: &Top) -> Result<(), Failure> {
    // Keys wait while the node is asked: not for long.
    let mut global = scope.global.clone();
    global.timeout.get_or_insert(LIVE_TIMEOUT_SECONDS);
    let scope = &Scope { global: &global, target: scope.target, dry_run: false, is_alone: true };
    let mut connection = scope.open()?;
    let first = Sample::take(&mut connection)?;
    let mut terminal = ratatui::try_init().map_err(|error| terminal_failure(&error))?;
    let result = watch(scope, options, &mut terminal, connection, first);
    ratatui::restore();
    result
}

fn terminal_failure(error: &std::io::Error) -> Failure {
    Failure::new(Code::Internal, "terminal", error.to_string(), "try top -b")
}

fn watch(
    scope: &Scope<'_>,
    options: &Top,
    terminal: &mut ratatui::DefaultTerminal,
    connection: Connection,
    mut before: Sample,
) -> Result<(), Failure> {
    let delay = Duration::from_secs(options.delay);
    let mut view =
        View { address: connection.address().into(), screen: None, order: Order::Cpu, trouble: None };
    let mut connection = Some(connection);
    let mut next = Instant::now() + delay.min(Duration::from_secs(1));
    loop {
        terminal.draw(|frame| draw(frame, &view)).map_err(|error| terminal_failure(&error))?;
        let left = next.saturating_duration_since(Instant::now());
        if event::poll(left).map_err(|error| terminal_failure(&error))? {
            let event = event::read().map_err(|error| terminal_failure(&error))?;
            if leaves(&event, &mut view.order) {
                return Ok(());
            }
            if let Some(screen) = &mut view.screen {
                screen.sort(view.order);
            }
            continue;
        }
        match look(scope, &mut connection) {
            Ok(after) => {
                view.screen = Some(Screen::new(&view.address, &before, &after, view.order));
                view.trouble = None;
                before = after;
            }
            Err(failure) => {
                connection = None;
                view.trouble = Some(failure.to_string());
            }
        }
        next = Instant::now() + delay;
    }
}

/// Connects again where the session broke off: dom0 may have been restarted.
fn look(scope: &Scope<'_>, connection: &mut Option<Connection>) -> Result<Sample, Failure> {
    let mut current = match connection.take() {
        Some(current) => current,
        None => scope.open()?,
    };
    let sample = Sample::take(&mut current)?;
    *connection = Some(current);
    Ok(sample)
}

/// Whether a key leaves; others choose the order.
fn leaves(event: &Event, order: &mut Order) -> bool {
    let Event::Key(key) = event else { return false };
    if key.kind == KeyEventKind::Release {
        return false;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Char('c') => *order = Order::Cpu,
        KeyCode::Char('m') => *order = Order::Memory,
        KeyCode::Char('n') => *order = Order::Name,
        _ => {}
    }
    false
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    let layout = Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]);
    let [head, middle, foot] = layout.areas(frame.area());
    let headline = view.screen.as_ref().map_or_else(|| view.address.clone(), Screen::headline);
    frame.render_widget(Paragraph::new(headline).style(Style::new().add_modifier(Modifier::BOLD)), head);
    let rows: Vec<Vec<String>> =
        view.screen.iter().flat_map(|screen| &screen.guests).map(redoubt::top::Row::cells).collect();
    let header = HEADERS.map(|header| header.trim_start_matches('>'));
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        let widest = cells.max().unwrap_or(0).max(header.get(column).map_or(0, |header| header.len()));
        u16::try_from(widest).unwrap_or(u16::MAX)
    };
    // As many whole columns as fit; the first are the ones that matter most.
    let mut room = middle.width.saturating_add(2);
    let widths: Vec<u16> = (0..HEADERS.len())
        .map(width)
        .take_while(|width| {
            let fits = room >= width.saturating_add(2);
            room = room.saturating_sub(width.saturating_add(2));
            fits
        })
        .collect();
    let columns = widths.len();
    let aligned = |column: usize, text: &str| {
        let width = usize::from(widths.get(column).copied().unwrap_or(0));
        let right = HEADERS.get(column).is_some_and(|header| header.starts_with('>'));
        Cell::from(if right { format!("{text:>width$}") } else { format!("{text:<width$}") })
    };
    let head = header.iter().take(columns).enumerate().map(|(column, text)| aligned(column, text));
    let header = Line::new(head).style(Style::new().add_modifier(Modifier::REVERSED));
    let lines = rows.iter().map(|row| {
        let stalled = row.get(1).is_some_and(|flags| flags.ends_with('i') || flags.contains('c'));
        let style = if stalled { Style::new().fg(Color::Red) } else { Style::new() };
        Line::new(row.iter().take(columns).enumerate().map(|(column, text)| aligned(column, text)))
            .style(style)
    });
    frame.render_widget(
        Table::new(lines, widths.iter().map(|width| Constraint::Length(*width)))
            .header(header)
            .column_spacing(2),
        middle,
    );
    let (text, style) = match &view.trouble {
        Some(trouble) => (format!("trying again: {trouble}"), Style::new().fg(Color::Red)),
        None => {
            ("q leaves; sort by c CPU, m memory, n name".into(), Style::new().add_modifier(Modifier::DIM))
        }
    };
    frame.render_widget(Paragraph::new(text).style(style), foot);
}

#[cfg(test)]
mod tests;
