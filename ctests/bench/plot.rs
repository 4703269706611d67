//! The plots of the report, each an SVG.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::crowd::Plan;
use crate::measure::{Row, Section, Subject};
use crate::number::{number, thousands};

type Plot = Result<String, Box<dyn Error>>;

/// What is plotted, from top to bottom, and its colour.
const SUBJECTS: [(Subject, RGBColor); 4] = [
    (Subject::Libcrypto, RGBColor(217, 119, 6)),
    (Subject::Rsasync, RGBColor(29, 78, 216)),
    (Subject::RsasyncAlone, RGBColor(147, 177, 245)),
    (Subject::Corosensei, RGBColor(148, 163, 184)),
];

const INK: RGBColor = RGBColor(51, 65, 85);
const GRID: RGBColor = RGBColor(226, 232, 240);

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// A bar chart of medians, with a line from quartile to quartile.
pub fn bars(section: &Section) -> Plot {
    const ROW_HEIGHT: u32 = 64;
    let rows: Vec<_> = section
        .rows
        .iter()
        .filter(|row| row.values.len() > 1)
        .collect();
    let top = rows
        .iter()
        .flat_map(|row| {
            SUBJECTS.map(|(subject, _)| {
                row.summary(subject)
                    .map_or(0.0, |summary| summary.quartiles[1])
            })
        })
        .fold(0.0, f64::max);
    let mut svg = String::new();
    {
        let size = (1060, ROW_HEIGHT * rows.len() as u32 + 80);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .margin_right(60)
            .x_label_area_size(40)
            .y_label_area_size(290)
            .build_cartesian_2d(0.0..top * 1.25, rows.len() as f64..0.0)?; // room for the legend
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .x_desc(rows.first().map_or("", |row| row.unit.name()))
            .label_style(text(13))
            .x_label_formatter(&|value| thousands(*value))
            .draw()?;
        for (place, row) in rows.iter().enumerate() {
            let anchor = Pos::new(HPos::Right, VPos::Center);
            chart.draw_series([EmptyElement::at((0.0, place as f64 + 0.5))
                + Text::new(row.name.clone(), (-10, 0), text(14).pos(anchor))])?;
        }
        for (nth, (subject, colour)) in SUBJECTS.into_iter().enumerate() {
            let edge = |place: usize, part: f64| place as f64 + 0.1 + 0.2 * (nth as f64 + part);
            let measured: Vec<_> = rows
                .iter()
                .enumerate()
                .filter_map(|(place, row)| Some((place, row.summary(subject)?)))
                .collect();
            if measured.is_empty() {
                continue;
            }
            chart
                .draw_series(measured.iter().map(|(place, summary)| {
                    let corners = [
                        (0.0, edge(*place, 0.05)),
                        (summary.median, edge(*place, 0.95)),
                    ];
                    Rectangle::new(corners, colour.filled())
                }))?
                .label(subject.name())
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled())
                });
            chart.draw_series(measured.iter().map(|(place, summary)| {
                let [lower, upper] = summary.quartiles;
                let middle = edge(*place, 0.5);
                PathElement::new([(lower, middle), (upper, middle)], INK.stroke_width(2))
            }))?;
            let anchor = Pos::new(HPos::Left, VPos::Center);
            chart.draw_series(measured.iter().map(|(place, summary)| {
                EmptyElement::at((summary.quartiles[1], edge(*place, 0.5)))
                    + Text::new(number(summary.median), (6, 0), text(11).pos(anchor))
            }))?;
        }
        legend(&mut chart, SeriesLabelPosition::LowerRight)?;
        area.present()?;
    }
    Ok(svg)
}

/// Costs by the size of crowds that have this many threads: a panel for each of the rows.
pub fn by_size(crowds: &[(Plan, Section)], threads: usize, rows: &[&str]) -> Plot {
    let crowds: Vec<_> = crowds
        .iter()
        .filter(|(plan, _)| plan.threads == threads)
        .collect();
    let find =
        |section: &'_ Section, name: &str| section.rows.iter().position(|row| row.name == name);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (1060, 340)).into_drawing_area();
        for (panel, name) in area.split_evenly((1, rows.len())).iter().zip(rows) {
            let measured: Vec<(f64, &Row)> = crowds
                .iter()
                .filter_map(|(plan, section)| {
                    Some((plan.jobs as f64, &section.rows[find(section, name)?]))
                })
                .collect();
            let sizes = measured.iter().map(|(size, _)| *size);
            let (least, most) = (
                sizes.clone().fold(f64::MAX, f64::min),
                sizes.fold(0.0, f64::max),
            );
            let top = measured
                .iter()
                .flat_map(|(_, row)| {
                    SUBJECTS.map(|(subject, _)| {
                        row.summary(subject)
                            .map_or(0.0, |summary| summary.quartiles[1])
                    })
                })
                .fold(0.0, f64::max);
            let unit = measured.first().map_or("", |(_, row)| row.unit.name());
            let mut chart = ChartBuilder::on(panel)
                .margin(10)
                .margin_right(30)
                .caption(format!("{name}, {unit}"), text(15))
                .x_label_area_size(40)
                .y_label_area_size(50)
                .build_cartesian_2d((least..most * 1.2).log_scale(), 0.0..top * 1.4)?;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(GRID)
                .axis_style(GRID)
                .x_desc("jobs in a thread")
                .label_style(text(12))
                .x_labels(6)
                .x_label_formatter(&|size| thousands(*size))
                .y_label_formatter(&|value| thousands(*value))
                .draw()?;
            for (subject, colour) in SUBJECTS {
                let points: Vec<_> = measured
                    .iter()
                    .filter_map(|(size, row)| Some((*size, row.summary(subject)?)))
                    .collect();
                if points.is_empty() {
                    continue;
                }
                let medians = points.iter().map(|(size, summary)| (*size, summary.median));
                chart
                    .draw_series(LineSeries::new(medians, colour.stroke_width(2)).point_size(3))?
                    .label(subject.name())
                    .legend(move |(x, y)| {
                        PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(3))
                    });
                chart.draw_series(points.iter().map(|(size, summary)| {
                    let [lower, upper] = summary.quartiles;
                    PathElement::new([(*size, lower), (*size, upper)], colour.stroke_width(2))
                }))?;
            }
            if name == &rows[0] {
                legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
            }
        }
        area.present()?;
    }
    Ok(svg)
}

fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Result<(), Box<dyn Error>>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    let mut labels = chart.configure_series_labels();
    labels.position(position).label_font(text(13));
    labels.background_style(WHITE).border_style(GRID).draw()?;
    Ok(())
}
