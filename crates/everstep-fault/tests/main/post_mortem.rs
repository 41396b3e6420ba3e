//! What a post-mortem's page and its JSON say, and that the page is one that a browser takes.

use everstep_data::{Batch, Cursor, Loader, LoaderConfig};
use everstep_fault::{
    Budget, Cause, Diagnosis, Error, Event, Guard, ParameterSummary, Place, Point, Policy, PostMortem, Recorded, Told,
};
use everstep_nn::Linear;
use everstep_optim::AdamW;
use everstep_tensor::{Device, Generator, Record, Tensor, Verdict, fault};

const BATCH: usize = 64;
const POISONED: u64 = 1234;

/// Two epochs of a run in which `harm` spoils batches, and how it ended.
fn run(policy: Policy, harm: impl Fn(&Batch) -> Option<Tensor>) -> (PostMortem, Result<(), Error>) {
    let device = Device::isolated_cpu();
    let model = Linear::new(64, 10, &mut Generator::new(1), &device).unwrap();
    // `harm` looks at what the host knows of a batch: it must be called for each.
    let mut guard = Guard::new(&model, AdamW::new(3e-3), Policy { capture: false, ..policy }).unwrap();
    let mut loader =
        Loader::new(everstep_data::digits().unwrap(), LoaderConfig::new(BATCH).shuffle(7), &device).unwrap();
    let forward = |batch: &Batch| {
        let x = harm(batch).unwrap_or_else(|| batch.x.clone());
        Ok::<_, Error>(model.forward(&x)?.cross_entropy(&batch.y)?)
    };
    let mut outcome = Ok(());
    while outcome.is_ok() && loader.cursor().epoch < 2 {
        outcome = guard.step(&mut loader, forward).map(|_| ());
    }
    (guard.post_mortem().unwrap(), outcome)
}

/// The batch with a NaN in the row of one sample, wherever it comes.
fn poison(batch: &Batch) -> Option<Tensor> {
    let row = batch.ids.iter().position(|&id| id == POISONED)?;
    let mut elements = batch.x.to_vec::<f32>().unwrap();
    elements[row * 64 + 5] = f32::NAN;
    Some(Tensor::from_vec(elements, batch.x.shape(), batch.x.device()).unwrap())
}

fn times_nan(batch: &Batch, is_bad: bool) -> Option<Tensor> {
    is_bad.then(|| batch.x.mul_scalar(f32::NAN).unwrap())
}

/// The tags of a page in order, and what stands between them. Fails where a tag is not closed, or not in its turn, and where a
/// character stands for itself that must not.
fn walk(page: &str) -> Vec<(String, String)> {
    const EMPTY: [&str; 3] = ["meta", "!DOCTYPE", "br"];
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    let mut rest = page;
    while let Some((before, from)) = rest.split_once('<') {
        let (tag, after) = from.split_once('>').unwrap();
        assert!(!tag.contains('<') && !before.contains('>'), "{before}<{tag}>");
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        let name = tag.split_whitespace().next().unwrap();
        seen.push((tag.to_owned(), before.to_owned()));
        match name.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed), "<{tag}>"),
            None if EMPTY.contains(&name) || tag.ends_with('/') => {}
            None => open.push(name),
        }
        rest = after;
    }
    assert!(open.is_empty(), "{open:?}");
    seen
}

/// What holds for every page.
fn checked(report: &PostMortem) -> String {
    let page = report.to_html();
    let tags = walk(&page);
    for wanted in ["html", "/html", "h1", "style", "main"] {
        assert!(tags.iter().any(|(tag, _)| tag.split(' ').next() == Some(wanted)), "{wanted}");
    }
    let mut ids: Vec<_> = tags.iter().filter_map(|(tag, _)| tag.split_once("id=\"")).collect();
    ids.sort_unstable();
    ids.windows(2).for_each(|pair| assert!(pair[0].1 != pair[1].1, "{pair:?}"));
    // Nothing from elsewhere, and nothing that runs.
    for forbidden in ["http", "<script", "src=", "url(", "@import", "<link"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    for svg in page.split("<svg").skip(1) {
        let svg = svg.split("</svg>").next().unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf\"") && !svg.contains("infL"), "{svg}");
        let paths = svg.split(" d=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        let in_numbers = |c: char| c.is_ascii_digit() || ".- MLHVhv".contains(c);
        paths.for_each(|path| assert!(path.starts_with('M') && path.chars().all(in_numbers), "{path}"));
    }
    page
}

/// The page of a run that met nothing, and from which the others are made.
fn clean() -> PostMortem {
    run(Policy::default(), |_| None).0
}

fn record(attempt: u32, loss: f32) -> Record {
    let faults = if loss.is_finite() { 0 } else { fault::LOSS | fault::GRADIENT };
    let verdict = if faults == 0 { Verdict::Commit } else { Verdict::Hold };
    Record { attempt, verdict, faults, loss, norm: loss, ..Record::from_words(&[]) }
}

fn place(step: u64) -> Place {
    Place { step, cursor: Cursor { seed: 7, epoch: 0, position: step * BATCH as u64 } }
}

#[test]
fn the_page_of_a_poisoned_run_says_what_where_and_how_to_see_it_again() {
    let (mut report, outcome) = run(Policy::default(), poison);
    outcome.unwrap();
    report.replay = "train --seed 7 --batch 64".into();
    let [diagnosis] = &report.diagnoses[..] else { panic!("{:?}", report.diagnoses) };
    assert_eq!((diagnosis.cause, &diagnosis.samples[..]), (Cause::Data, &[POISONED][..]), "{diagnosis:?}");
    let page = checked(&report);
    let (step, bits) = (diagnosis.place.step, diagnosis.record.loss.to_bits());
    for wanted in [
        format!("<h1>The run met one fault (data), at step {step}, and recovered; "),
        "Cause: the data: the batch is faulty on another state too.".into(),
        format!("1. Step {step}: data"),
        format!("The fault follows sample {POISONED}."),
        format!("<td>{step} (attempt {})</td>", diagnosis.attempt),
        "<pre class=\"command\">train --seed 7 --batch 64</pre>".into(),
        format!("{bits:08x}"),
        "matmul".into(),
        "not a number".into(),
        "Steps lost".into(),
        "the loss is not finite".into(),
        "&quot;probation&quot;: 10".into(),
    ] {
        assert!(page.contains(&wanted), "{wanted}");
    }
    assert!(!page.contains("class=\"banner\""));
    assert_eq!(page.matches("<svg").count(), 2);
}

#[test]
fn the_page_of_a_run_that_gave_up_says_so() {
    let policy = Policy { skips: 2, ..Policy::default() };
    let (report, outcome) = run(policy, |batch| times_nan(batch, batch.before.position >= 10 * BATCH as u64));
    assert!(matches!(outcome, Err(Error::GaveUp { .. })), "{outcome:?}");
    let page = checked(&PostMortem { chaos: true, ..report });
    for wanted in [
        "and gave up; ",
        "class=\"banner\"",
        "The policy gave up: ",
        "given up (",
        "with the same plan of faults",
        "Faults were planned",
    ] {
        assert!(page.contains(wanted), "{wanted}");
    }
}

#[test]
fn pages_of_runs_with_little_to_tell() {
    let report = clean();
    assert!(checked(&report).contains("<h1>The run met no fault.</h1>"));
    let (ignored, outcome) = run(Policy::off(), |batch| times_nan(batch, batch.before.position == 64));
    outcome.unwrap();
    assert!(checked(&ignored).contains("its policy is to go on without an answer"));
    let empty = PostMortem {
        attempts: 0,
        committed: 0,
        replay: String::new(),
        events: vec![],
        curve: vec![],
        records: vec![],
        parameters: vec![],
        snapshots: vec![],
        ..report.clone()
    };
    let page = checked(&empty);
    for wanted in ["has not tried a step yet", "There is no finite loss to show.", "No snapshot is kept."] {
        assert!(page.contains(wanted), "{wanted}");
    }
    let point = |loss, norm, refused| Point { attempt: 1, step: 1, loss, norm, refused };
    for (loss, norm) in [(Some(2.0), Some(0.0)), (Some(0.0), None), (Some(-3.0), Some(f32::MAX)), (None, None)] {
        for refused in [false, true] {
            let report = PostMortem { curve: vec![point(loss, norm, refused)], ..empty.clone() };
            let finite = [loss, norm].iter().flatten().count();
            assert_eq!(checked(&report).matches("<svg").count(), finite, "{loss:?} {norm:?}");
        }
    }
}

/// Values of every size, none of which may leave the picture.
#[test]
fn curves_stay_in_their_pictures() {
    let report = clean();
    let series: [&[f32]; 6] = [
        &[f32::MIN_POSITIVE, f32::MAX],
        &[-f32::MAX, f32::MAX],
        &[1.0, 1.0 + f32::EPSILON],
        &[f32::from_bits(1), 0.0],
        &[0.3, 0.31, 0.32],
        &[1e30, 1e30],
    ];
    for values in series {
        let point = |(index, &value): (usize, &f32)| Point {
            attempt: u32::MAX - 3 + index as u32,
            step: index as u64,
            loss: Some(value),
            norm: Some(value.abs()),
            refused: index == 2,
        };
        let page = checked(&PostMortem { curve: values.iter().enumerate().map(point).collect(), ..report.clone() });
        assert_eq!(page.matches("<svg").count(), 2, "{values:?}");
        for attribute in [" y=\"", " x=\""] {
            let numbers = page.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap());
            let inside = |number: &str| (0.0..=960.0).contains(&number.parse::<f64>().unwrap());
            numbers.for_each(|number| assert!(inside(number), "{values:?}: {number}"));
        }
        // Each axis has something to read.
        assert!(page.matches("text-anchor=\"end\"").count() >= 2, "{values:?}");
    }
}

#[test]
fn markup_in_names_is_text() {
    let markup = "</pre><script>alert(\"1\" & '2')</script>\u{0}";
    let mut report = clean();
    let (shape, name) = (vec![2, 3], markup.to_owned());
    let summary = ParameterSummary { name, shape, rms: f64::NAN, largest: 1e-9, non_finite: 6, zeros: 0 };
    report.parameters.push(summary);
    report.replay = markup.into();
    report.device = markup.into();
    report.diagnoses = vec![diagnosis(5)];
    let event = Event::Injected { fault: markup.into(), place: place(5) };
    report.events.push(Told { attempt: 5, text: event.to_string(), event });
    let page = checked(&report);
    let escaped = "&lt;/pre&gt;&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;\u{fffd}";
    assert_eq!(page.matches(escaped).count(), 4);
    assert!(!page.contains('\0'));
}

fn diagnosis(step: u64) -> Diagnosis {
    let record = record(step as u32, f32::INFINITY);
    Diagnosis {
        cause: Cause::Data,
        place: place(step),
        attempt: step,
        reasons: record.reasons(),
        record,
        origin: None,
        on_other_state: Some(true),
        with_other_batch: Some(false),
        samples: vec![step],
        tally: everstep_fault::Tally { replays: 1, examinations: 1, quarantines: 1, ..Default::default() },
        lost_steps: 6,
        recovered: !step.is_multiple_of(90),
        chaos: false,
    }
}

#[test]
fn the_largest_page_is_still_one_to_read() {
    let loss = |attempt: u32| if attempt.is_multiple_of(9) { f32::NAN } else { 1.0 + 1.0 / attempt as f32 };
    let finite = |value: f32| value.is_finite().then_some(value);
    let point = |attempt: u32| {
        let loss = loss(attempt);
        Point { attempt, step: attempt.into(), loss: finite(loss), norm: finite(loss), refused: loss.is_nan() }
    };
    let diagnoses: Vec<_> = (1..=1000).map(|index| diagnosis(index * 9)).collect();
    let event = |diagnosis: &Diagnosis| {
        let diagnosis = Box::new(diagnosis.clone());
        let event = match diagnosis.recovered {
            true => Event::Recovered { diagnosis },
            false => Event::GaveUp { budget: Budget::Ladder, diagnosis },
        };
        Told { attempt: 1, text: event.to_string(), event }
    };
    let parameter = |index: usize| ParameterSummary {
        name: format!("decoder.blocks.{index}.attention.projection.weight"),
        shape: vec![4096, 4096],
        rms: 0.020_123_4,
        largest: 0.123_456,
        non_finite: usize::from(index == 999),
        zeros: 0,
    };
    let report = PostMortem {
        events: diagnoses.iter().map(event).collect(),
        diagnoses,
        curve: (1..=2000).map(point).collect(),
        records: (1800..2000)
            .map(|step| Recorded { place: place(step), record: record(step as u32, loss(step as u32)) })
            .collect(),
        parameters: (0..1000).map(parameter).collect(),
        quarantined: (0..1000).collect(),
        ..clean()
    };
    let page = checked(&report);
    assert!(page.len() < 300_000, "{}", page.len());
    for wanted in ["980 incidents are left out", "700 events are left out", "700 parameters", "blocks.999."] {
        assert!(page.contains(wanted), "{wanted}");
    }
}

#[test]
fn what_is_written_is_read_again() {
    let (report, _) = run(Policy::default(), poison);
    let folder = std::env::temp_dir().join(format!("everstep-post-mortem-{}", std::process::id()));
    report.write(folder.join("new")).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.join("new").join(name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read("post_mortem.json")).unwrap();
    assert_eq!(json["diagnoses"], serde_json::to_value(&report.diagnoses).unwrap());
    assert_eq!(json["diagnoses"][0]["samples"][0], POISONED);
    let bits = format!("{:08x}", report.diagnoses[0].record.loss.to_bits());
    assert_eq!(json["diagnoses"][0]["record"]["loss_bits"], bits.as_str());
    assert_eq!(read("post_mortem.html"), report.to_html());
    // A folder within a file.
    let impossible = folder.join("new/post_mortem.json/folder");
    let error = report.write(&impossible).unwrap_err();
    assert!(matches!(&error, Error::File { path, .. } if *path == impossible), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}
