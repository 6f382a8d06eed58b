//! Points and what is chosen of them, at once and one by one.

use super::*;

fn points(all: &[(f64, usize)]) -> Vec<Point> {
    let point = |&(score, parameters): &(f64, usize)| Point { score, parameters };
    all.iter().map(point).collect()
}

#[test]
fn the_front_has_what_nothing_beats() {
    let all = points(&[
        (0.90, 100),
        (0.91, 80),
        (0.91, 80),
        (0.85, 40),
        (0.84, 50),
        (f64::NAN, 1),
        (0.85, 30),
    ]);
    assert_eq!(pareto(&all), [6, 1]);
    assert_eq!(pareto(&[]), [0usize; 0]);
}

#[test]
fn each_choice_takes_what_it_says() {
    let all = points(&[(0.80, 100), (0.90, 90), (0.90, 95), (0.897, 60), (0.88, 10)]);
    assert_eq!(choose(&all, Select::Best), Some(1));
    assert_eq!(choose(&all, Select::Last), Some(4));
    assert_eq!(choose(&all, Select::SmallestWithin(0.0)), Some(1));
    assert_eq!(choose(&all, Select::SmallestWithin(0.005)), Some(3));
    assert_eq!(choose(&all, Select::SmallestWithin(0.05)), Some(4));
    // Below zero a share still widens, and a score that is none never wins.
    let below = points(&[(-0.100, 9), (-0.101, 3), (f64::NAN, 1)]);
    assert_eq!(choose(&below, Select::SmallestWithin(0.02)), Some(1));
    assert_eq!(choose(&points(&[(f64::NAN, 1)]), Select::Best), None);
}

#[test]
fn what_is_out_of_play_would_never_have_been_chosen() {
    let mut random = crate::train::random::Random::new(3, "choice");
    for round in 0..200 {
        let all: Vec<Point> = (0..12)
            .map(|_| Point {
                score: 0.9 + 0.001 * random.below(9) as f64,
                parameters: 10 * random.below(6),
            })
            .collect();
        for select in [
            Select::Best,
            Select::Last,
            Select::SmallestWithin(0.0),
            Select::SmallestWithin(0.004),
        ] {
            let mut kept: Vec<(usize, Point)> = Vec::new();
            for (i, &point) in all.iter().enumerate() {
                kept.push((i, point));
                let points: Vec<Point> = kept.iter().map(|k| k.1).collect();
                let places = in_play(&points, select);
                kept = places.into_iter().map(|p| kept[p]).collect();
            }
            let points: Vec<Point> = kept.iter().map(|k| k.1).collect();
            let chosen = choose(&points, select).map(|p| kept[p].0);
            assert_eq!(chosen, choose(&all, select), "round {round}, {select:?}");
        }
    }
    let nothing = [Point {
        score: f64::NAN,
        parameters: 1,
    }];
    assert_eq!(in_play(&nothing, Select::SmallestWithin(0.1)), [0usize; 0]);
}

#[test]
fn choices_are_read_and_refused_by_what_is_wrong() {
    let read = |text: &str| text.parse::<Select>();
    assert_eq!(read("best"), Ok(Select::Best));
    assert_eq!(read("last"), Ok(Select::Last));
    assert_eq!(
        read("smallest-within 0.5%"),
        Ok(Select::SmallestWithin(0.005))
    );
    assert_eq!(
        read("smallest-within 0.005"),
        Ok(Select::SmallestWithin(0.005))
    );
    for (wrong, why) in [
        ("smallest", "known are"),
        ("smallest-within", "a share"),
        ("smallest-within 100%", "a share"),
        ("smallest-within nan", "a share"),
        ("best of all", "too much"),
    ] {
        let error = read(wrong).expect_err(wrong);
        assert!(error.contains(why), "{error}");
    }
}
