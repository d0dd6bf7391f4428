// Parses a bench's command line with base/cli; prints figures as a table and as JSON.
#include "bench/bench_common.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli/args.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace kvlink::bench {

void Die(absl::string_view what) {
  std::fprintf(stderr, "%s: %s\n", program_invocation_short_name, std::string(what).c_str());
  std::exit(1);
}

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double Median(std::vector<double> values) { return Quantile(std::move(values), 0.5); }

double MedianRatio(absl::Span<const double> ours, absl::Span<const double> ceiling) {
  std::vector<double> ratios;
  for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(ours[i] / ceiling[i]);
  return Median(std::move(ratios));
}

double Quantile(std::vector<double> values, double fraction) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double at = fraction * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

std::vector<double> Interleave(absl::Span<const std::function<void()>> alternatives, int rounds) {
  std::vector<std::vector<double>> seconds(alternatives.size());
  for (int round = -1; round < rounds; ++round) {
    for (size_t i = 0; i < alternatives.size(); ++i) {
      const double start = Now();
      alternatives[i]();
      if (round >= 0) seconds[i].push_back(Now() - start);
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& values : seconds) medians.push_back(Median(std::move(values)));
  return medians;
}

void Prefault(void* data, int64_t bytes) { std::memset(data, 0, static_cast<size_t>(bytes)); }

constexpr int64_t kHugePage = int64_t{2} << 20;

Memory::Memory(int64_t bytes) : bytes_((bytes + kHugePage - 1) / kHugePage * kHugePage) {
  data_ = std::aligned_alloc(kHugePage, static_cast<size_t>(bytes_));
  if (data_ == nullptr) throw std::bad_alloc();
  madvise(data_, bytes_, MADV_HUGEPAGE);  // like the product's arenas; if it fails, small pages serve
  Prefault(data_, bytes_);
}

Memory::~Memory() { std::free(data_); }

absl::StatusOr<Scratch> Scratch::Make(std::string path) {
  std::error_code error;
  if (path.empty()) {
    path = std::filesystem::temp_directory_path(error) / absl::StrCat(program_invocation_short_name, "_", getpid());
  }
  if (std::filesystem::exists(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " exists; name a directory that can be made and removed"));
  }
  if (!std::filesystem::create_directories(path, error)) {
    return absl::UnavailableError(absl::StrCat("cannot make the directory ", path, ": ", error.message()));
  }
  return Scratch(std::move(path));
}

Scratch::~Scratch() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

Report::Report(absl::string_view title) { std::printf("%s\n", std::string(title).c_str()); }

void Report::Add(absl::string_view name, double value, absl::string_view unit, std::optional<Target> target) {
  figures_.push_back({std::string(name), value, std::string(unit), target});
  const Figure& figure = figures_.back();
  std::printf("  %-58s %12.4g %-10s", figure.name.c_str(), value, figure.unit.c_str());
  if (target)
    std::printf("  %s %-8.4g %s", target->at_most ? "<=" : ">=", target->value, figure.met() ? "met" : "MISSED");
  std::printf("\n");
  std::fflush(stdout);
}

void Report::Section(absl::string_view heading) {
  std::printf("%s\n", std::string(heading).c_str());
  std::fflush(stdout);
}

bool Report::AllMet() const {
  return absl::c_all_of(figures_, [](const Figure& figure) { return figure.met(); });
}

absl::Status Report::WriteJson(const std::string& path) const {
  nlohmann::json all = nlohmann::json::array();
  for (const Figure& figure : figures_) {
    nlohmann::json one{{"name", figure.name}, {"unit", figure.unit}, {"target", nullptr}, {"met", nullptr}};
    one["value"] = std::isfinite(figure.value) ? nlohmann::json(figure.value) : nlohmann::json(nullptr);
    if (figure.target) {
      one["target"] = figure.target->value;
      one["met"] = figure.met();
    }
    all.push_back(std::move(one));
  }
  std::ofstream file(path);
  file << all.dump(1) << "\n";
  file.close();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path, "; check the directory and its rights"));
  return absl::OkStatus();
}

int Report::Finish(const std::string& path) const {
  if (path.empty()) return 0;
  const absl::Status status = WriteJson(path);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

absl::StatusOr<Flags> Flags::Parse(int argc, char** argv, absl::string_view summary, absl::Span<const FlagHelp> known) {
  const std::string program = std::filesystem::path(argv[0]).filename();
  std::vector<FlagHelp> all(known.begin(), known.end());
  all.push_back({"json", "FILE", "Write the figures to FILE."});
  cli::Arguments arguments(program, "", summary, /*program=*/"");
  std::vector<std::string> texts(all.size());
  const std::unique_ptr<bool[]> switches(new bool[all.size()]());
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].value.empty()) {
      arguments.Flag(all[i].name, all[i].help, &switches[i]);
    } else {
      arguments.Text(all[i].name, all[i].value, all[i].help, &texts[i]);
    }
  }
  KVLINK_RETURN_IF_ERROR(arguments.Parse({argv + 1, static_cast<size_t>(argc - 1)}));
  Flags flags;
  flags.help_wanted_ = arguments.help_wanted();
  if (flags.help_wanted_) return flags;
  if (!arguments.operands().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unexpected argument '", arguments.operands()[0], "'; see ", program, " --help"));
  }
  for (size_t i = 0; i < all.size(); ++i) {
    if (!arguments.given(all[i].name)) continue;
    int64_t number = 0;
    if (all[i].value == "N" && !absl::SimpleAtoi(texts[i], &number)) {
      return absl::InvalidArgumentError(absl::StrCat("option --", all[i].name, ": '", texts[i], "' is not an integer"));
    }
    flags.values_.emplace_back(std::string(all[i].name), texts[i]);
  }
  return flags;
}

bool Flags::Has(absl::string_view name) const {
  return absl::c_any_of(values_, [&](const auto& value) { return value.first == name; });
}

std::string Flags::Get(absl::string_view name, absl::string_view fallback) const {
  for (const auto& [key, value] : values_) {
    if (key == name) return value;
  }
  return std::string(fallback);
}

int64_t Flags::GetInt(absl::string_view name, int64_t fallback) const {
  int64_t number = 0;
  return absl::SimpleAtoi(Get(name, ""), &number) ? number : fallback;
}

}  // namespace kvlink::bench
