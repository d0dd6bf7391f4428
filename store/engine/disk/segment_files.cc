// A segment's length is a multiple of its piece size only if its last piece is completely on disk: the last block of a
// piece is added after all others have been flushed. So the length tells what is usable. The remains of a crash are cut
// off when the file grows, and not before: opening cuts nothing, so that a length that is wrong for another reason can
// still be detected.
//
// One map of segments, and a list of those whose files are kept open, in order of last use. All users of a segment
// share one file, kept or not, so that its writes and flushes go through one descriptor.
#include "store/engine/disk/segment_files.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "base/descriptor_limit.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "proto/envelope.h"

namespace kvlink::engine {
namespace {

constexpr EnvelopeKind kSegmentKind = {0x4753564b /* "KVSG" */, 2, 0, "segment header"};
constexpr int64_t kHeaderPayload = 16 + 4 + 8 + 8;
constexpr absl::string_view kSuffix = ".seg";
constexpr int64_t kMinOpen = 8, kMaxOpen = 1024;
constexpr int64_t kPieceBytes = int64_t{256} << 20;
constexpr int64_t kStep = 1 << 20;  // written at a time
// For a file written through the page cache: unflushed data there delays other flushes.
constexpr int64_t kMaxUnflushed = 16 << 20;
static_assert(kStep % kSegmentBlockBytes == 0 && kMaxUnflushed % kStep == 0);

// Checks that not every block of the added bytes [from, to) is in `bad`, the blocks that could not be written.
absl::Status CheckAnyWritten(const File& file, const std::vector<Run>& bad, int64_t from, int64_t to) {
  if (static_cast<int64_t>(bad.size()) < (to - from) / kSegmentBlockBytes) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("no block of what is added to ", file.path(), " can be written"));
}

}  // namespace

SegmentFiles::SegmentFiles(const FileSystem& files, const Options& options)
    : files_(files),
      options_(options),
      piece_bytes_(std::min(options.piece_bytes > 0 ? options.piece_bytes : kPieceBytes, options.segment_bytes)),
      max_open_(options.max_open > 0 ? options.max_open : std::clamp(DescriptorLimit() / 4, kMinOpen, kMaxOpen)) {}

std::string SegmentFiles::PathOf(uint32_t segment) const {
  return absl::StrCat(options_.path, "/", absl::StrFormat("%06d", segment), kSuffix);
}

Run SegmentFiles::RunOf(uint32_t number, int64_t from, int64_t to) const {
  from = std::max(from, kSegmentBlockBytes);
  return {static_cast<uint32_t>(number * blocks_per_segment() + from / kSegmentBlockBytes),
          static_cast<uint32_t>((to - from) / kSegmentBlockBytes)};
}

absl::StatusOr<std::unique_ptr<SegmentFiles>> SegmentFiles::Open(const FileSystem& files, const Options& options) {
  std::unique_ptr<SegmentFiles> segments(new SegmentFiles(files, options));
  segments->direct_ = options.allow_direct;
  KVLINK_RETURN_IF_ERROR(segments->OpenExisting());
  return segments;
}

absl::Status SegmentFiles::OpenExisting() {
  KVLINK_ASSIGN_OR_RETURN(const auto names, files_.List(options_.path));
  for (const std::string& name : names) {
    const std::string path = options_.path + "/" + name;
    if (absl::EndsWith(name, ".tmp")) {
      if (!options_.read_only) KVLINK_RETURN_IF_ERROR(files_.Remove(path));
      continue;
    }
    uint32_t number = 0;
    if (!absl::EndsWith(name, kSuffix) ||
        !absl::SimpleAtoi(absl::string_view(name).substr(0, name.size() - 4), &number) || PathOf(number) != path ||
        number > UINT32_MAX / blocks_per_segment() - 1) {
      problems_.push_back(absl::StrCat(path, " is not a segment"));
      continue;
    }
    std::shared_ptr<File> file;
    {
      MutexLock lock(&mutex_);
      KVLINK_ASSIGN_OR_RETURN(file, FileOf(number, &segments_[number]));
    }
    KVLINK_ASSIGN_OR_RETURN(const Segment examined, Examine(number, file.get()));
    MutexLock lock(&mutex_);
    Segment& segment = segments_[number];
    segment.bytes = examined.bytes;
    segment.piece_bytes = examined.piece_bytes;
    segment.grows = examined.grows;
    direct_ = direct_ && file->direct();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<int64_t>> SegmentFiles::CheckHeader(uint32_t number, const File& file) {
  alignas(4096) std::byte header[4096];  // aligned for O_DIRECT
  const auto read = [&]() -> absl::StatusOr<absl::string_view> {
    KVLINK_RETURN_IF_ERROR(file.Read(0, absl::MakeSpan(header)));
    const auto payload = OpenEnvelope(
        kSegmentKind, absl::string_view(reinterpret_cast<const char*>(header), kEnvelopeBytes + kHeaderPayload));
    if (!payload.ok()) return Annotate(payload.status(), file.path());
    return *payload;
  };
  auto payload = read();
  if (!payload.ok()) payload = read();  // a read may fail, or return wrong bytes, just once
  if (!payload.ok()) {
    problems_.push_back(std::string(payload.status().message()));
    return std::nullopt;
  }
  FieldReader reader(*payload);
  Uuid uuid;
  reader.ReadBytes(uuid.data(), uuid.size());
  const uint32_t stored_number = reader.Read<uint32_t>();
  const uint64_t stored_bytes = reader.Read<uint64_t>();
  const uint64_t piece = reader.Read<uint64_t>();
  if (uuid != options_.uuid || stored_number != number ||
      stored_bytes != static_cast<uint64_t>(options_.segment_bytes)) {
    return absl::FailedPreconditionError(absl::StrCat(file.path(), " belongs to another store or place (store ",
                                                      UuidHex(uuid), ", segment ", stored_number, "); this is store ",
                                                      UuidHex(options_.uuid), "; move the file away"));
  }
  if (piece < 2 * kSegmentBlockBytes || piece > stored_bytes || piece % kSegmentBlockBytes != 0) {
    problems_.push_back(absl::StrCat(file.path(), " has pieces of ", piece, " bytes"));
    return std::nullopt;
  }
  return static_cast<int64_t>(piece);
}

absl::StatusOr<SegmentFiles::Segment> SegmentFiles::Examine(uint32_t number, File* file) {
  KVLINK_ASSIGN_OR_RETURN(const std::optional<int64_t> piece, CheckHeader(number, *file));
  KVLINK_ASSIGN_OR_RETURN(const int64_t size, file->Size());
  Segment segment;
  segment.piece_bytes = piece.value_or(options_.segment_bytes);
  segment.bytes = options_.segment_bytes;
  if (!piece.has_value()) {
    // Committed data lies within the file, however it grew.
    const int64_t whole = std::min(size, segment.bytes) / kSegmentBlockBytes * kSegmentBlockBytes;
    segment.bytes = std::max(whole, 2 * kSegmentBlockBytes);
    segment.grows = false;
    unreadable_.push_back(number);
    return segment;
  }
  if (size == options_.segment_bytes) return segment;
  if (size > options_.segment_bytes || size < segment.piece_bytes) {
    problems_.push_back(absl::StrCat(file->path(), " has ", size, " bytes instead of ", options_.segment_bytes));
    if (size < segment.piece_bytes) segment.bytes = segment.piece_bytes;
    segment.grows = false;
    return segment;
  }
  segment.bytes = size / segment.piece_bytes * segment.piece_bytes;
  return segment;
}

absl::Status SegmentFiles::Zero(uint32_t number, File* file, int64_t from, int64_t to,
                                const std::function<absl::Status()>& flush, std::vector<Run>* bad) const {
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  const std::unique_ptr<std::byte, Free> buffer(static_cast<std::byte*>(std::aligned_alloc(4096, kStep)));
  if (buffer == nullptr) return absl::UnavailableError("out of memory for 1 MiB of zeros");
  std::memset(buffer.get(), 0, kStep);
  int64_t unflushed = 0;
  for (int64_t offset = from; offset < to && !options_.sparse;) {
    const int64_t length = std::min(kStep, to - offset);
    absl::Status written = file->Write(offset, absl::MakeConstSpan(buffer.get(), length));
    // If the device refuses, block by block, to find out which ones are bad.
    for (int64_t at = offset; absl::IsDataLoss(written) && at < offset + length; at += kSegmentBlockBytes) {
      const absl::Status block = file->Write(at, absl::MakeConstSpan(buffer.get(), kSegmentBlockBytes));
      if (absl::IsDataLoss(block)) {
        bad->push_back(RunOf(number, at, at + kSegmentBlockBytes));
      } else if (!block.ok()) {
        written = block;
      }
    }
    if (!absl::IsDataLoss(written)) KVLINK_RETURN_IF_ERROR(written);
    offset += length;
    unflushed += length;
    if (file->direct() || unflushed < kMaxUnflushed) continue;
    KVLINK_RETURN_IF_ERROR(flush());
    unflushed = 0;
  }
  return flush();
}

absl::Status SegmentFiles::WriteHeader(uint32_t number, File* file) const {
  alignas(4096) static constexpr std::byte kZeros[4096] = {};
  std::string payload(reinterpret_cast<const char*>(options_.uuid.data()), options_.uuid.size());
  AppendField<uint32_t>(number, &payload);
  AppendField<uint64_t>(options_.segment_bytes, &payload);
  AppendField<uint64_t>(piece_bytes_, &payload);
  const std::string header = WrapEnvelope(kSegmentKind, payload);
  alignas(4096) std::byte bytes[4096] = {};  // aligned for O_DIRECT
  std::memcpy(bytes, header.data(), header.size());
  KVLINK_RETURN_IF_ERROR(file->Write(0, absl::MakeConstSpan(bytes)));
  for (int64_t offset = sizeof(bytes); offset < kSegmentBlockBytes; offset += sizeof(kZeros)) {
    KVLINK_RETURN_IF_ERROR(file->Write(offset, absl::MakeConstSpan(kZeros)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Run>> SegmentFiles::Make(uint32_t number, const std::string& temporary) {
  KVLINK_RETURN_IF_ERROR(files_.Remove(temporary));
  const FileSystem::OpenOptions options = {.write = true, .create = true, .direct = options_.allow_direct};
  KVLINK_ASSIGN_OR_RETURN(auto file, files_.Open(temporary, options));
  KVLINK_RETURN_IF_ERROR(options_.sparse ? file->Resize(piece_bytes_) : file->Allocate(piece_bytes_));
  KVLINK_RETURN_IF_ERROR(WriteHeader(number, file.get()));
  const auto flush = [&file] { return file->Sync(); };
  std::vector<Run> bad;
  KVLINK_RETURN_IF_ERROR(Zero(number, file.get(), kSegmentBlockBytes, piece_bytes_, flush, &bad));
  KVLINK_RETURN_IF_ERROR(CheckAnyWritten(*file, bad, kSegmentBlockBytes, piece_bytes_));
  KVLINK_RETURN_IF_ERROR(files_.Rename(temporary, PathOf(number)));
  KVLINK_RETURN_IF_ERROR(files_.SyncDirectory(options_.path));
  return bad;
}

absl::StatusOr<std::vector<Run>> SegmentFiles::Extend(uint32_t number, File* file, Flushes* flushes, int64_t from,
                                                      int64_t to) {
  KVLINK_ASSIGN_OR_RETURN(const int64_t size, file->Size());
  if (size != from) KVLINK_RETURN_IF_ERROR(file->Resize(from));
  std::vector<Run> bad;
  const auto flush = [&] { return Flush(file, flushes); };
  const auto extend = [&](int64_t first, int64_t end) -> absl::Status {
    if (first == end) return absl::OkStatus();
    KVLINK_RETURN_IF_ERROR(options_.sparse ? file->Resize(end) : file->Allocate(end));
    return Zero(number, file, first, end, flush, &bad);
  };
  absl::Status status = extend(from, to - kSegmentBlockBytes);
  if (status.ok()) status = extend(to - kSegmentBlockBytes, to);
  if (status.ok()) status = CheckAnyWritten(*file, bad, from, to);
  if (status.ok()) return bad;
  file->Resize(from).IgnoreError();  // otherwise the next attempt does it
  return status;
}

absl::StatusOr<std::optional<SegmentFiles::Grown>> SegmentFiles::GrowExisting() {
  uint32_t number = 0;
  int64_t from = 0, to = 0;
  std::shared_ptr<File> file;
  std::shared_ptr<Flushes> flushes;
  {
    MutexLock lock(&mutex_);
    const auto grows = [this](const auto& entry) {
      const Segment& segment = entry.second;
      return segment.grows && segment.flushes->failed.ok() && segment.bytes < options_.segment_bytes;
    };
    const auto it = std::find_if(segments_.begin(), segments_.end(), grows);
    if (it == segments_.end()) return std::nullopt;
    number = it->first;
    from = it->second.bytes;
    to = std::min(from + it->second.piece_bytes, options_.segment_bytes);
    flushes = it->second.flushes;
    KVLINK_ASSIGN_OR_RETURN(file, FileOf(number, &it->second));
  }
  auto bad = Extend(number, file.get(), flushes.get(), from, to);
  if (bad.ok()) {
    MutexLock lock(&mutex_);
    segments_[number].bytes = to;
    return Grown{RunOf(number, from, to), *std::move(bad)};
  }
  if (absl::IsResourceExhausted(bad.status()) || absl::IsUnavailable(bad.status())) return bad.status();
  // Another file lies elsewhere on the device.
  StopGrowing(number);
  return std::nullopt;
}

absl::StatusOr<SegmentFiles::Grown> SegmentFiles::Grow() {
  MutexLock grow(&grow_mutex_);
  KVLINK_ASSIGN_OR_RETURN(auto grown, GrowExisting());
  if (grown.has_value()) return *std::move(grown);
  return GrowNew();
}

absl::StatusOr<SegmentFiles::Grown> SegmentFiles::GrowNew() {
  uint32_t number = 0;
  {
    MutexLock lock(&mutex_);
    while (segments_.contains(number)) ++number;
  }
  if (number > UINT32_MAX / blocks_per_segment() - 1)
    return absl::ResourceExhaustedError("the store has no block numbers left");
  const std::string path = PathOf(number);
  const std::string first = path + ".tmp", second = path + ".again.tmp";
  auto bad = Make(number, first);
  if (!bad.ok() && !absl::IsResourceExhausted(bad.status())) {
    if (absl::IsUnavailable(bad.status())) {
      MutexLock lock(&mutex_);
      CloseDownTo(static_cast<int64_t>(recent_.size()) / 2);
    }
    // The first file keeps its space on the device until the second has been given other space.
    bad = Make(number, second);
  }
  files_.Remove(first).IgnoreError();
  if (!bad.ok()) {
    files_.Remove(second).IgnoreError();
    files_.Remove(path).IgnoreError();
    return bad.status();
  }
  MutexLock lock(&mutex_);
  Segment& segment = segments_[number];
  segment.bytes = segment.piece_bytes = piece_bytes_;
  return Grown{RunOf(number, 0, piece_bytes_), *std::move(bad)};
}

void SegmentFiles::StopGrowing(uint32_t segment) {
  MutexLock lock(&mutex_);
  const auto it = segments_.find(segment);
  if (it != segments_.end()) it->second.grows = false;
}

absl::Status SegmentFiles::Remove(uint32_t segment) {
  MutexLock grow(&grow_mutex_);
  {
    MutexLock lock(&mutex_);
    const auto it = segments_.find(segment);
    if (it == segments_.end()) return absl::OkStatus();
    if (it->second.kept != nullptr) recent_.erase(it->second.recent);
    segments_.erase(it);
  }
  KVLINK_RETURN_IF_ERROR(files_.Remove(PathOf(segment)));
  return files_.SyncDirectory(options_.path);
}

std::vector<Run> SegmentFiles::UsableRuns() const {
  std::vector<Run> runs;
  MutexLock lock(&mutex_);
  for (const auto& [number, segment] : segments_) runs.push_back(RunOf(number, 0, segment.bytes));
  return runs;
}

int64_t SegmentFiles::usable_blocks() const {
  int64_t blocks = 0;
  for (const Run& run : UsableRuns()) blocks += run.count;
  return blocks;
}

int64_t SegmentFiles::bytes() const {
  int64_t bytes = 0;
  MutexLock lock(&mutex_);
  for (const auto& [number, segment] : segments_) bytes += segment.bytes;
  return bytes;
}

int64_t SegmentFiles::open_files() const {
  MutexLock lock(&mutex_);
  return std::count_if(segments_.begin(), segments_.end(), [](const auto& s) { return !s.second.file.expired(); });
}

void SegmentFiles::CloseDownTo(int64_t files) {
  while (static_cast<int64_t>(recent_.size()) > files) {
    segments_[recent_.back()].kept = nullptr;
    recent_.pop_back();
  }
}

void SegmentFiles::Keep(uint32_t number, Segment* segment, std::shared_ptr<File> file) {
  if (segment->kept != nullptr) {
    recent_.splice(recent_.begin(), recent_, segment->recent);
    return;
  }
  recent_.push_front(number);
  segment->recent = recent_.begin();
  segment->kept = std::move(file);
  CloseDownTo(max_open_);
}

absl::StatusOr<std::shared_ptr<File>> SegmentFiles::FileOf(uint32_t number, Segment* segment) {
  std::shared_ptr<File> file = segment->file.lock();
  if (file == nullptr) {
    const FileSystem::OpenOptions options = {.write = !options_.read_only, .direct = options_.allow_direct};
    auto opened = files_.Open(PathOf(number), options);
    if (absl::IsUnavailable(opened.status()) && recent_.size() > 1) {
      // If descriptors run out, keep fewer files open.
      CloseDownTo(static_cast<int64_t>(recent_.size()) / 2);
      opened = files_.Open(PathOf(number), options);
    }
    // NOT_FOUND is reserved for segments that the store does not have; it has this one.
    if (absl::IsNotFound(opened.status())) return absl::UnavailableError(opened.status().message());
    KVLINK_RETURN_IF_ERROR(opened.status());
    file = *std::move(opened);
    segment->file = file;
  }
  Keep(number, segment, file);
  return file;
}

absl::StatusOr<std::shared_ptr<File>> SegmentFiles::Locate(uint32_t block, int64_t* offset) {
  *offset = int64_t{block % blocks_per_segment()} * kSegmentBlockBytes;
  const uint32_t number = SegmentOf(block);
  MutexLock lock(&mutex_);
  const auto it = segments_.find(number);
  if (it == segments_.end()) return absl::NotFoundError(absl::StrCat("there is no segment ", PathOf(number)));
  return FileOf(number, &it->second);
}

absl::Status SegmentFiles::Sync(uint32_t segment) {
  std::shared_ptr<File> file;
  std::shared_ptr<Flushes> flushes;
  {
    MutexLock lock(&mutex_);
    const auto it = segments_.find(segment);
    if (it == segments_.end()) return absl::NotFoundError(absl::StrCat("there is no segment ", PathOf(segment)));
    flushes = it->second.flushes;
    KVLINK_RETURN_IF_ERROR(flushes->failed);
    KVLINK_ASSIGN_OR_RETURN(file, FileOf(segment, &it->second));
  }
  return Flush(file.get(), flushes.get());
}

absl::Status SegmentFiles::Flush(File* file, Flushes* flushes) {
  MutexLock one(&flushes->mutex);
  {
    MutexLock lock(&mutex_);
    KVLINK_RETURN_IF_ERROR(flushes->failed);
  }
  const absl::Status status = file->Sync();
  if (status.ok()) return status;
  MutexLock lock(&mutex_);
  flushes->failed = status;
  return status;
}

}  // namespace kvlink::engine
