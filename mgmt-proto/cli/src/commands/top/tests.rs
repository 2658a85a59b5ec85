use super::{View, draw, leaves};
use mgmt_proto::verb::NodeFacts;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use redoubt::top::{Order, Sample, Screen};

fn text(view: &View) -> String {
    let mut terminal = Terminal::new(TestBackend::new(100, 4)).unwrap();
    terminal.draw(|frame| draw(frame, view)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn the_screen_as_a_person_sees_it() {
    let node =
        NodeFacts { uptime_ns: 3_723_000_000_000, cpus: 4, memory_bytes: 8 << 30, ..NodeFacts::default() };
    let sample = Sample { node, guests: Vec::new(), traffic: Vec::new() };
    let screen = Screen::new("a:1", &sample, &sample, Order::Cpu);
    let mut view = View { address: "a:1".into(), screen: Some(screen), order: Order::Cpu, trouble: None };
    let seen = text(&view);
    let lines: Vec<&str> = seen.lines().map(|line| line.trim_matches('"').trim_end()).collect();
    assert_eq!(lines[0], "a:1  up 01:02:03  4 CPUs, 0.0 % used  8192 MiB, 0 free, dom0 0  0 guests");
    let headers =
        "NAME  STATE  CPU(sec)  CPU(%)  MEM(k)  MAXMEM(k)  VCPUS  EXITS/s  RX(k)/s  TX(k)/s  VBD_RD/s";
    assert_eq!(lines[1], headers, "whole columns, as many as fit");
    assert_eq!(lines[3], "q leaves; sort by c CPU, m memory, n name");
    view.trouble = Some("a:1: no answer".into());
    assert!(text(&view).contains("trying again: a:1: no answer"));
}

#[test]
fn keys() {
    let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
    let mut order = Order::Cpu;
    assert!(leaves(&key(KeyCode::Char('q'), KeyModifiers::NONE), &mut order));
    assert!(leaves(&key(KeyCode::Char('c'), KeyModifiers::CONTROL), &mut order));
    for (letter, expected) in [('m', Order::Memory), ('n', Order::Name), ('c', Order::Cpu), ('x', Order::Cpu)]
    {
        assert!(!leaves(&key(KeyCode::Char(letter), KeyModifiers::NONE), &mut order));
        assert_eq!(order, expected);
    }
}
