// TFRecord: u64 length, u32 masked CRC-32C of it, the message, u32 masked CRC-32C of the message. The messages are
// encoded by hand: two fields of Event and two of Summary.Value (tensorflow/core/util/event.proto, summary.proto).
#include "worker/train/metrics.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/checksum.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "worker/train/tensor_file.h"

namespace kvlink::train {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr off_t kMaxBytes = off_t{1} << 30;
constexpr size_t kMaxLineBytes = size_t{1} << 16;  // an object looks its members up one after another

std::string LineOf(const Metric& metric) {
  OrderedJson json = {{"step", metric.step}};
  for (const auto& [name, value] : metric.values) json[name] = value;
  return json.dump() + "\n";
}

absl::StatusOr<Metric> ParseLine(absl::string_view line) {
  // What is nested is dropped: this kind of JSON copies members when it grows, by recursion.
  const auto shallow = [](int depth, OrderedJson::parse_event_t, OrderedJson&) { return depth < 2; };
  const OrderedJson json = OrderedJson::parse(line.begin(), line.end(), shallow, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) {
    return absl::InvalidArgumentError("not a line of metrics; move the file away");
  }
  Metric metric{json["step"].get<int64_t>(), {}};
  for (const auto& [name, value] : json.items()) {
    if (name == "step") continue;
    // It becomes a name in the script of the picture, whose language can run programs.
    const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
      return c == '_' || absl::ascii_isalnum(static_cast<unsigned char>(c));
    });
    if (!plain) return absl::InvalidArgumentError("a metric's name is not made of letters, digits and underscores");
    metric.values.emplace_back(name, value.is_number() ? value.get<double>() : std::nan(""));
  }
  return metric;
}

bool IsOfHeldOut(const Metric& metric) {
  return std::any_of(metric.values.begin(), metric.values.end(),
                     [](const auto& value) { return absl::StartsWith(value.first, "held_out_"); });
}

void AppendRecord(const std::string& message, std::string* out) {
  std::string length;
  AppendField(uint64_t{message.size()}, &length);
  *out += length;
  AppendField(MaskedCrc32c(length.data(), length.size()), out);
  *out += message;
  AppendField(MaskedCrc32c(message.data(), message.size()), out);
}

enum WireType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
void AppendTag(int field, WireType type, std::string* out) {
  AppendVarint(static_cast<uint64_t>(field) << 3 | type, out);
}
void AppendBytes(int field, absl::string_view bytes, std::string* out) {
  AppendTag(field, kBytes, out);
  AppendVarint(bytes.size(), out);
  absl::StrAppend(out, bytes);
}

}  // namespace

std::string EncodeEvents(const std::vector<Metric>& metrics) {
  // Event: wall_time = 1 (left out: steps are the axis), step = 2, file_version = 3, summary = 5.
  std::string bytes, version;
  AppendBytes(3, "brain.Event:2", &version);
  AppendRecord(version, &bytes);
  for (const Metric& metric : metrics) {
    std::string summary;
    for (const auto& [name, value] : metric.values) {
      std::string item;  // Summary.Value: tag = 1, simple_value = 2
      AppendBytes(1, name, &item);
      AppendTag(2, kFixed32, &item);
      AppendField(std::bit_cast<uint32_t>(static_cast<float>(value)), &item);
      AppendBytes(1, item, &summary);
    }
    std::string event;
    AppendTag(2, kVarint, &event);
    AppendVarint(static_cast<uint64_t>(metric.step), &event);
    AppendBytes(5, summary, &event);
    AppendRecord(event, &bytes);
  }
  return bytes;
}

std::string CurvesPlot(const std::vector<Metric>& metrics) {
  std::map<std::string, std::string> curves;  // points by name
  for (const Metric& metric : metrics) {
    for (const auto& [name, value] : metric.values) {
      const bool drawn = absl::EndsWith(name, "divergence") || absl::EndsWith(name, "cross_entropy");
      if (drawn && std::isfinite(value)) absl::StrAppend(&curves[name], metric.step, " ", value, "\n");
    }
  }
  if (curves.empty()) return "";
  for (auto& [name, points] : curves) {
    if (!absl::StartsWith(name, "concat_")) continue;
    absl::StrAppend(&points, metrics.back().step, points.substr(points.find(' ')));
  }
  std::string script = "set xlabel 'step'\nset ylabel 'nats per learned token'\nset grid\n";
  std::vector<std::string> plots;
  for (const auto& [name, points] : curves) {
    absl::StrAppend(&script, "$", name, " << END\n", points, "END\n");
    plots.push_back(absl::StrCat("$", name, " with lines title '", name, "' noenhanced"));
  }
  return absl::StrCat(script, "plot ", absl::StrJoin(plots, ", "), "\n");
}

absl::StatusOr<std::unique_ptr<Metrics>> Metrics::Open(const std::string& directory, int64_t step, bool measured) {
  std::unique_ptr<Metrics> metrics(new Metrics(directory));
  const std::string path = directory + "/metrics.jsonl";
  metrics->file_ = Descriptor(open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (metrics->file_.get() < 0) return absl::ErrnoToStatus(errno, path);
  if (flock(metrics->file_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return absl::ErrnoToStatus(errno, path);
    return absl::UnavailableError(absl::StrCat(path, ": another process is training there"));
  }
  KVLINK_RETURN_IF_ERROR(Annotate(metrics->Read(step, measured), path));
  return metrics;
}

absl::Status Metrics::Read(int64_t step, bool measured) {
  struct stat state = {};
  if (fstat(file_.get(), &state) != 0) return absl::ErrnoToStatus(errno, "stat");
  if (!S_ISREG(state.st_mode) || state.st_size > kMaxBytes) {
    return absl::InvalidArgumentError("not a file of at most 1 GiB");
  }
  std::string bytes(static_cast<size_t>(state.st_size), '\0');
  for (size_t have = 0; have < bytes.size();) {
    const ssize_t n = pread(file_.get(), bytes.data() + have, bytes.size() - have, static_cast<off_t>(have));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return absl::ErrnoToStatus(errno, "read");
    have += static_cast<size_t>(n);
  }
  size_t kept = 0;
  for (int64_t number = 1; kept < bytes.size(); ++number) {
    const size_t end = bytes.find('\n', kept);
    if (end == std::string::npos) break;  // its writer was killed
    if (end - kept > kMaxLineBytes) return absl::InvalidArgumentError(absl::StrCat("line ", number, ": too long"));
    auto metric = ParseLine(absl::string_view(bytes).substr(kept, end - kept));
    KVLINK_RETURN_IF_ERROR(Annotate(metric.status(), absl::StrCat("line ", number)));
    if (metric->step > step || (metric->step == step && !measured && IsOfHeldOut(*metric))) break;
    metrics_.push_back(*std::move(metric));
    kept = end + 1;
  }
  if (kept < bytes.size() && ftruncate(file_.get(), static_cast<off_t>(kept)) != 0)
    return absl::ErrnoToStatus(errno, "truncate");
  return absl::OkStatus();
}

absl::Status Metrics::Append(Metric metric) {
  const std::string line = LineOf(metric);
  for (size_t have = 0; have < line.size();) {
    const ssize_t n = write(file_.get(), line.data() + have, line.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, directory_ + "/metrics.jsonl");
    have += static_cast<size_t>(n);
  }
  metrics_.push_back(std::move(metric));
  return absl::OkStatus();
}

absl::Status Metrics::WriteEvents() const {
  return WriteDurably(directory_ + "/events.out.tfevents.kvlink", EncodeEvents(metrics_));
}

}  // namespace kvlink::train
