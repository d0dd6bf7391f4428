// Shared by all benches: figures with their targets, printed as a table and JSON, and fair timing.
//
// Benches compare alternatives within one run, because figures on a shared machine vary from run to run: time them with
// Interleave() and report the ratio. Not thread-safe.
#ifndef KVLINK_BENCH_BENCH_COMMON_H_
#define KVLINK_BENCH_BENCH_COMMON_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink::bench {

// Prints what was wrong and exits with status 1.
[[noreturn]] void Die(absl::string_view what);
inline void MustBe(const absl::Status& status) {
  if (!status.ok()) Die(status.message());
}
template <typename T>
T Must(absl::StatusOr<T> result) {
  MustBe(result.status());
  return *std::move(result);
}

// Seconds of a steady clock.
double Now();

// The middle value (the mean of the middle two); 0 if empty. `fraction` 0.99 gives the 99th percentile.
double Median(std::vector<double> values);
double Quantile(std::vector<double> values, double fraction);
// Median of ours[i] / ceiling[i], each pair measured back to back: the processors and disk of a virtual machine change
// threefold within seconds, which affects both alike. REQUIRES: equal sizes.
double MedianRatio(absl::Span<const double> ours, absl::Span<const double> ceiling);

// Runs the alternatives in turn, `rounds` times each after one uncounted round, and returns the median seconds of each.
std::vector<double> Interleave(absl::Span<const std::function<void()>> alternatives, int rounds);

// Touches every page, so that a bench does not measure first use of the memory.
void Prefault(void* data, int64_t bytes);

// Memory on a 4096-byte boundary, prefaulted and zeroed, freed by the destructor.
class Memory {
 public:
  explicit Memory(int64_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  template <typename T = void>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_;
  int64_t bytes_;
};

// A directory that exists as long as the object.
class Scratch {
 public:
  // Creates `path`; if empty, a temporary directory named after the program and its process. INVALID_ARGUMENT: the path
  // already exists, and may be needed; UNAVAILABLE: it cannot be created.
  static absl::StatusOr<Scratch> Make(std::string path);
  ~Scratch();
  Scratch(Scratch&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::string& path() const { return path_; }

 private:
  explicit Scratch(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// The goal of a figure. at_most: smaller is better.
struct Target {
  double value = 0;
  bool at_most = false;
};

class Report {
 public:
  explicit Report(absl::string_view title);
  // Prints the line at once, so that a long bench shows its progress.
  void Add(absl::string_view name, double value, absl::string_view unit, std::optional<Target> target = std::nullopt);
  // A heading between lines; not part of the JSON.
  void Section(absl::string_view heading);
  // Whether every figure with a target met it.
  bool AllMet() const;
  // [{"name","value","unit","target","met"}]; target and met are null without a target. A value that is not finite is
  // null.
  absl::Status WriteJson(const std::string& path) const;
  // Writes the JSON unless `path` is empty and returns the exit code of main(): 0, or 1 if the file cannot be written.
  int Finish(const std::string& path) const;

 private:
  struct Figure {
    std::string name;
    double value;
    std::string unit;
    std::optional<Target> target;
    bool met() const { return !target || (target->at_most ? value <= target->value : value >= target->value); }
  };
  std::vector<Figure> figures_;
};

// A flag of a bench. `value` as shown in the help: "N"; empty: a switch.
struct FlagHelp {
  absl::string_view name;
  absl::string_view value;
  absl::string_view help;
};

// Gives the path of a Scratch.
inline constexpr FlagHelp kScratchFlag = {"dir", "DIRECTORY",
                                          "Made and removed by the bench (default: among the temporary files)."};

// The command line of a bench, parsed as in all programs (base/cli/args.h).
class Flags {
 public:
  // `summary`: one line on what the bench measures. On OK, either help_wanted() is true and the help was printed to
  // standard output, or the flags can be read. INVALID_ARGUMENT naming the first flag that is not in `known` ("json"
  // and "help" always are), lacks its value, or has a value that is not a number ("N"); and for an argument that is not
  // a flag.
  static absl::StatusOr<Flags> Parse(int argc, char** argv, absl::string_view summary,
                                     absl::Span<const FlagHelp> known);
  bool help_wanted() const { return help_wanted_; }
  bool Has(absl::string_view name) const;
  std::string Get(absl::string_view name, absl::string_view fallback) const;
  int64_t GetInt(absl::string_view name, int64_t fallback) const;
  std::string json() const { return Get("json", ""); }

 private:
  std::vector<std::pair<std::string, std::string>> values_;
  bool help_wanted_ = false;
};

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_BENCH_COMMON_H_
