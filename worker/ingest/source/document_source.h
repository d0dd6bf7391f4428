// Documents from JSON lines, text files, directories and standard input.
//
//   JSON lines   one object per line: {"id": "...", "title": "...", "text": "..."}; id may be an integer, title is
//                optional, other members are ignored. Names ending in .jsonl or .ndjson (and .gz or .zst after that).
//   text files   one document per file: its id is the file's name, its title the name without extensions. All other
//                names; .json and .csv are ambiguous, so for these the options must decide.
//   directories  every .txt, .md, .jsonl and .ndjson file in them (compressed or not), in order of name; ids of text
//                files are their paths from the directory. Links to directories are not followed, hidden files are
//                skipped. A directory that cannot be listed is one failed item.
//   "-"          JSON lines on standard input, unless the options say text.
//
// When several processes share a corpus, each source yields the documents of one shard, chosen by id. Items without an
// id are assigned by their location (file name and line), so they too are in exactly one shard. Text files of other
// shards are not read.
//
// Thread-safety: one thread at a time, but Stop() from any.
#ifndef KVLINK_WORKER_INGEST_SOURCE_DOCUMENT_SOURCE_H_
#define KVLINK_WORKER_INGEST_SOURCE_DOCUMENT_SOURCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/ingest/source/directory_walk.h"
#include "worker/ingest/source/interrupt.h"
#include "worker/ingest/source/line_reader.h"
#include "worker/ingest/source/shard.h"

namespace kvlink::ingest {

struct SourceOptions {
  enum class Format { kAuto, kJsonLines, kText } format = Format::kAuto;
  // For a single text file or standard input as text; empty: derived from the file's name.
  std::string id;
  std::string title;
  int64_t max_document_bytes = int64_t{64} << 20;  // of a line or of a text file, decompressed
  Shard shard;
};

// One document, or the reason why it could not be read. `where` is "file" or "file:line".
struct SourceItem {
  std::string where;
  absl::Status status;
  std::string id;  // empty if unknown
  std::string title;
  std::string text;      // valid UTF-8
  int64_t position = 0;  // bytes of all inputs, before decompression, up to the end of this document
};

class DocumentSource {
 public:
  // Examines the inputs. INVALID_ARGUMENT: no inputs, "-" twice, an id or a title for more than one text, a .json or
  // .csv file without a format. NOT_FOUND naming a missing path, or a directory without documents. `interrupt` (may be
  // null, otherwise outlives the source) stops the source when it is raised, and is raised by Stop().
  static absl::StatusOr<std::unique_ptr<DocumentSource>> Open(const std::vector<std::string>& paths,
                                                              const SourceOptions& options,
                                                              const Interrupt* interrupt = nullptr);
  // The next document of the shard, valid or not; nullopt at the end. An error in one document or file never stops the
  // others.
  std::optional<SourceItem> Next();
  // From now on Next() returns nullopt, at once, instead of reading more. Safe in signal handlers.
  void Stop() const { interrupt_->Raise(); }
  bool stopped() const { return interrupt_->raised(); }
  const Shard& shard() const { return options_.shard; }
  // Items without an id so far, of any shard: what they contain is unknown.
  int64_t unnamed() const { return unnamed_; }
  // Bytes of all inputs; 0 if unknown (standard input).
  int64_t total_bytes() const { return total_bytes_; }
  // Files in directories that are of none of the kinds above.
  int64_t ignored_files() const { return ignored_files_; }

 private:
  struct Input {
    std::string path;
    std::string id;  // of a text
    bool directory = false;
    bool json_lines = false;
    int64_t bytes = 0;
    absl::Status status = absl::OkStatus();  // the reason why it cannot be read, if already known
  };
  DocumentSource(const SourceOptions& options, const Interrupt* interrupt)
      : options_(options),
        own_interrupt_(interrupt == nullptr ? std::make_unique<const Interrupt>() : nullptr),
        interrupt_(interrupt == nullptr ? own_interrupt_.get() : interrupt) {}
  absl::Status AddPath(const std::string& path);
  absl::Status AddDirectory(const std::string& path);
  bool AreJsonLines(const std::string& name, bool otherwise) const;
  // Makes the next file to read current_; false at the end.
  bool TakeInput();
  void FinishInput();
  // The next item, of any shard; for a text of another shard, only its id.
  std::optional<SourceItem> NextOfAll();
  bool IsOurs(const SourceItem& item) const;
  std::optional<SourceItem> NextLine();
  SourceItem ReadText(const Input& input);

  const SourceOptions options_;
  const std::unique_ptr<const Interrupt> own_interrupt_;  // unless one was given
  const Interrupt* const interrupt_;
  int64_t unnamed_ = 0;
  std::vector<Input> inputs_;  // as given: files and directories
  int64_t total_bytes_ = 0;
  int64_t ignored_files_ = 0;
  bool total_known_ = true;
  size_t next_input_ = 0;
  std::unique_ptr<DirectoryWalk> walk_;  // through the input before
  std::optional<Input> current_;
  int64_t finished_bytes_ = 0;         // of the files before the current one
  std::unique_ptr<LineReader> lines_;  // of the current file
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_SOURCE_DOCUMENT_SOURCE_H_
