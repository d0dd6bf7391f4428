// Linked decoding: answers a prompt over documents from their stored encodings, with one forward pass over the fresh
// tokens (with a linker that chooses tokens, one in each stage), then one per token of the answer. Works on tokens;
// worker/infer/chat.h adds text.
//
// A document that the store lacks, or whose bytes arrive damaged or late, is encoded on the spot and written back. This
// costs time and increments a counter, and never fails the request. Attention never reads a layer before its bytes are
// verified. If the store takes back the memory of an encoding during a pass, the results of the pass are discarded, and
// the pass is repeated: with the encoding read again, or at once without the conversations that read it (Pass).
//
// Thread-safety: a Generator by many threads at once, each with its own conversations; a Conversation by one thread at
// a time. Lifetime: model, store and generator outlive every conversation; model and store outlive the generator.
// Errors of all calls: CANCELLED and DEADLINE_EXCEEDED by the caller's limits, after which a conversation is as it was
// before the call; INVALID_ARGUMENT when the encodings exceed the whole budget; RESOURCE_EXHAUSTED when the private KV
// or a device is full: a request waits for room for its encodings, and only that request fails if it gets none in time.
#ifndef KVLINK_WORKER_INFER_GENERATOR_H_
#define KVLINK_WORKER_INFER_GENERATOR_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/kernels.h"
#include "proto/digest.h"
#include "store/store.h"
#include "worker/encode/encoder.h"
#include "worker/encode/wrapper.h"
#include "worker/infer/answer_rules.h"
#include "worker/infer/phases.h"
#include "worker/infer/resident_pool.h"
#include "worker/infer/token_filter.h"
#include "worker/infer/write_back.h"
#include "worker/link/plan.h"
#include "worker/link/profile.h"
#include "worker/model/model.h"

namespace kvlink::infer {

struct GeneratorOptions {
  std::string ns = "default";
  Codec codec = Codec::kRawBf16;  // of the encodings read and written
  std::string tenant_secret;
  link::LinkProfile profile;
  // Rows [slots * N, hidden] for link ids, which start at the end of the vocabulary; empty if the profile uses ordinary
  // ids.
  std::vector<float> link_embeddings;
  encode::Wrapper wrapper;  // the profile's; if it has one and none is given here, it is loaded
  // Private KV of all conversations together, in tokens; 0: the model's context.
  int64_t private_tokens = 0;
  int64_t prefill_chunk = 1024;                        // maximum fresh rows of one forward pass
  int64_t graph_rows = 64;                             // ForwardBatch, if all layers have arrived; 0: no graphs
  int64_t resident_budget_bytes = int64_t{256} << 20;  // ResidentPool; on a device, for all encodings
  int64_t host_bytes = 0;                              // HostTier: pinned host memory, with a device only; 0: none
  // Bytes of device memory, outside the budget, in which encodings arrive from a network that reaches it, until they
  // have their place in the budget. Encodings that do not fit arrive through the host. 0: all do. If set, the backend
  // must outlive the store.
  int64_t device_buffer_bytes = 0;
  int64_t write_back_bytes = int64_t{256} << 20;  // WriteBack's queue; 0: nothing is written back
  // How long one layer of an encoding may take to arrive before the document is encoded instead.
  absl::Duration load_timeout = absl::Seconds(10);
};

// Limits of one call.
struct Limits {
  absl::Duration timeout = absl::Minutes(10);
  std::function<bool()> cancelled;  // asked before every layer; may be empty
};

struct RequestDocument {
  std::vector<int32_t> tokens;  // its own, without those of a wrapper
  // Whose encodings are its own: found and stored under this secret; empty: under GeneratorOptions::tenant_secret.
  std::string secret = {};
  bool text = false;  // read from no encoding, and none is made: PlanInput::text
};

struct Request {
  link::Linker linker = link::Linker::kConcat;
  link::PromptTokens prompt;
  std::vector<RequestDocument> documents;
  int64_t answer_tokens = 1;       // room to leave in the context
  kernels::SampleParams sampling;  // `position` is set by the generator
  AnswerRules rules;
  NewTokenFilter filter;  // empty: none
  // Asks for the log-probability of each token of the answer, and of so many that are the likeliest in its place; at
  // most kernels::kMaxLikeliest.
  std::optional<int64_t> top_logprobs;
  bool allow_untrained_links = false;  // measurements only
  bool keep_logits = false;            // Conversation::logits()
  bool write_back = true;              // store the encodings that it has to compute
  Limits limits;
};

class Conversation;
class Generator;

// The cost of a request.
struct RequestStats {
  absl::Duration time_to_first_token;  // from the call to the first sampled token, including loading and verification
  absl::Duration decode_time;          // of the decode steps since then
  int64_t decoded_tokens = 0;          // by those steps
  int64_t prompt_tokens = 0;           // positions before the answer
  // Computed by this request. A token counts in each stage that computes it, by the share of the layers that the stage
  // goes through; the sum is rounded up. So 100 tokens through 2 of 30 layers count 7, and with prophet-P the question
  // counts twice.
  int64_t fresh_tokens = 0;
  int64_t recomputed_tokens = 0;   // of these, counted likewise, what is of documents
  int64_t repeated_tokens = 0;     // beside these, counted likewise, what Restart had computed again
  int64_t documents_resident = 0;  // encodings, by where they were found
  int64_t documents_host = 0;      // in our own copies in host memory
  int64_t documents_dram = 0;
  int64_t documents_disk = 0;
  int64_t documents_direct = 0;   // of these two, received in device memory
  int64_t documents_encoded = 0;  // missing, damaged or late
  int64_t documents_text = 0;     // RequestDocument::text
  // Of the prompt's tokens: read from encodings that were there, and from those that this request made and handed to
  // the store. Tokens of documents that were computed again are in neither.
  int64_t read_tokens = 0;
  int64_t stored_tokens = 0;
  int64_t bytes_host = 0;  // of encodings, by where they were read from
  int64_t bytes_dram = 0;
  int64_t bytes_segments = 0;
  Phases phases;
};

// A token of an answer. Log-probabilities are those of the model's own distribution: the log-softmax of its logits,
// before rules, filters and the temperature change anything.
struct SampledToken {
  struct Logprob {
    int32_t token = 0;
    float logprob = 0;
  };
  int32_t token = 0;
  float logprob = 0;               // with Request::top_logprobs
  std::vector<Logprob> likeliest;  // likewise, most likely first
};

// What one conversation does in a pass of many.
struct Work {
  Conversation* conversation = nullptr;
  // Of its prompt, at most; but a question that is observed is not split, unless prefill_chunk splits it. Afterwards:
  // how many were fed.
  int64_t tokens = 1;
  absl::Status status;       // how that ended
  bool lacks_pages = false;  // the status says that private KV is full
  bool lapsed = false;       // the status says that it lacks an encoding, which LandDocuments replaces
};

class Conversation {
 public:
  ~Conversation();
  Conversation(const Conversation&) = delete;
  Conversation& operator=(const Conversation&) = delete;

  // Positions fed so far, and the token sampled after the last of them (not fed yet).
  int64_t length() const { return length_; }
  int32_t next() const { return next_.token; }
  const SampledToken& sampled() const { return next_; }  // the same, with its log-probabilities
  const RequestStats& stats() const { return stats_; }
  // The model's logits for `next`, [vocab]; empty unless Request::keep_logits.
  absl::Span<const float> logits() const { return logits_; }
  // Tokens of the prompt that its present stage has yet to compute; 0: the prompt is computed, and next() is sampled.
  int64_t prompt_left() const;
  // Whether every layer of what the present stage reads is in its place, so that no pass waits for one.
  bool landed() const;
  // Tokens in private KV, at most, once its prompt is computed, whatever its stages choose, and one more token is fed.
  int64_t tokens_wanted() const;
  // Pages of private KV that this takes beside those that it has.
  int64_t pages_wanted() const;
  // Pages of private KV that it has; thread-safe.
  int64_t pages_held() const { return pages_held_; }

 private:
  friend class Generator;
  // Gives the plans of a prompt's stages one after another; a copy of one that was not asked yet begins with the first.
  using NextStage = std::function<link::LinkPlan(const link::Observed&)>;
  // A prompt that is not computed yet.
  struct Prompt {
    NextStage next;
    std::vector<int32_t> answer;  // tokens of the answer that are computed with it, behind it
    link::LinkPlan plan;          // of the present stage
    int64_t fed = 0;              // its fresh tokens that are computed
    link::Observed observed;      // in this stage
  };
  struct Read {
    std::shared_ptr<Resident> resident;  // nullptr: to be read before the next pass
    int64_t offset = 0;
    int64_t document = 0;          // index into documents_
    std::vector<uint64_t> hidden;  // link::PlacedDocument
    bool visible = true;           // some token is not hidden
    Identity identity;             // as named by the request
  };
  // How the statistics count a document.
  struct Counted {
    int64_t RequestStats::*place = nullptr;  // nullptr: not yet
    bool direct = false;                     // it was received in device memory
    bool stored = false;                     // it was encoded here and handed to the store
  };
  // A lapsed encoding is read again once, then computed here; an unusable one is computed here at once. Computing
  // cannot fail in this way, so each document is replaced twice at most until something is fed.
  struct Replaced {
    absl::flat_hash_set<Identity> lapsed, computed;
  };
  Conversation(Generator* generator, model::KvPages* pages, const Request& request);
  bool observes() const { return prompt_ != nullptr && prompt_->plan.observe != link::Observe::kNothing; }
  // Whether the present stage needs the bytes of a document that it places.
  bool needs(const Read& read) const {
    return read.visible || (observes() && prompt_->plan.observe == link::Observe::kDeviation);
  }
  bool holds_documents() const;
  bool lacks_documents() const;
  void Drop(Read& read);          // its encoding, which was of no use
  void Truncate(int64_t tokens);  // what is fed
  void Take(SampledToken token);  // as next()

  Generator* const generator_;
  const absl::Time began_;
  model::KvSequence sequence_;
  std::atomic<int64_t> pages_held_{0};
  const std::vector<RequestDocument> documents_;  // the stages refer to them
  NextStage stages_;                              // not asked yet
  int64_t max_fresh_ = 0;                         // tokens, of any stage
  std::unique_ptr<Prompt> prompt_;                // nullptr: it is computed
  std::vector<Read> reads_;
  std::vector<Counted> counted_;  // [documents_]
  Replaced replaced_;             // since something was fed
  bool packet_ = false;           // link::LinkPlan
  // Layers of tokens of the prompt; of these, of documents; and beside them, computed again.
  int64_t computed_ = 0, recomputed_ = 0, repeated_ = 0;
  kernels::SampleParams sampling_;
  const std::optional<int64_t> top_logprobs_;
  std::unique_ptr<AnswerState> state_;  // of the answer that ends in next_; nullptr: nothing changes its logits
  int64_t length_ = 0;
  SampledToken next_;
  const bool keep_logits_, write_back_;
  std::vector<float> logits_;
  RequestStats stats_;
};

class Generator {
 public:
  // `store` may be nullptr: every document is then encoded on the spot. INVALID_ARGUMENT: a profile, link embeddings
  // or a wrapper that do not fit the model; host memory or a device buffer with a backend on the host.
  // RESOURCE_EXHAUSTED: no memory for the private KV.
  static absl::StatusOr<std::unique_ptr<Generator>> Create(const model::Model* model, const Fingerprint& fingerprint,
                                                           store::Store* store, GeneratorOptions options);
  // Writes back queued encodings.
  ~Generator();

  // Prefill: reads (or encodes) the documents, computes the fresh tokens, in the stages of the linker, and samples the
  // first token of the answer. Layers of encodings that are still arriving are waited for one by one, by the first
  // stage that reads or compares them: kBlend computes its first layers meanwhile, kProphet the question. What is
  // chosen is computed after all layers that the choice needs have arrived. INVALID_ARGUMENT and FAILED_PRECONDITION as
  // link::Stages::Create.
  absl::StatusOr<std::unique_ptr<Conversation>> Start(const Request& request);
  // The same for the caller's own plan, whose positions may have gaps. INVALID_ARGUMENT: it observes something, names
  // no document of the request, or hides tokens of another number than the document has.
  absl::StatusOr<std::unique_ptr<Conversation>> StartPlanned(const link::LinkPlan& plan, const Request& request);
  // Start in steps, for whoever computes several requests together: Admit, LandDocuments, and Pass until the prompt is
  // computed. Admit only lays out the prompt, with the errors of Start for that; it reads and computes nothing, and the
  // request's limits do not matter. INVALID_ARGUMENT also for tokens outside the vocabulary and for sampling that
  // kernels::ValidateSampleParams or CheckRules refuse: in a pass of many they would fail all.
  absl::StatusOr<std::unique_ptr<Conversation>> Admit(const Request& request);
  // Whether nothing has to land: gives the present stage its encodings if all of them are in memory and complete.
  // Otherwise changes nothing. Does not block.
  bool Attach(Conversation& conversation);
  // Reads or encodes the documents of the present stage, and waits until every layer of each is in its place. Without
  // it, passes wait for layers one by one, as Start does. May run on any thread while the conversation is in no pass.
  absl::Status LandDocuments(Conversation& conversation, const Limits& limits);
  // One pass over several distinct conversations. Each feeds the next tokens of its prompt, prefill_chunk of them at
  // most; or, once the prompt is computed, next(). When a stage is computed, the conversation enters the next one. A
  // conversation whose context is full (OUT_OF_RANGE), for which there is no private KV or no room, whose encoding
  // turned out to be unusable (UNAVAILABLE), or for which no token may come next (INTERNAL), fails alone, and the
  // limits and a failure of the device fail all; those that fail are as they were before. Stages that observe are
  // computed one by one, each in a pass of its own.
  void Pass(absl::Span<Work> works, const Limits& limits);
  // Gives back the conversation's encodings and private KV, and begins its prompt again, now followed by `answer`, all
  // tokens that were sampled so far: after that, what is sampled is what would have followed them before. Its
  // statistics go on: they count neither documents nor tokens twice, except repeated_tokens.
  void Restart(Conversation& conversation, absl::Span<const int32_t> answer);
  // Pages of private KV that no conversation has; thread-safe.
  int64_t free_pages() const { return pages_->free_pages(); }
  // One decode step of several distinct conversations in one forward pass: feeds each one's next() and samples the
  // token after it. Documents read by several of them are read once. OUT_OF_RANGE, changing nothing, if the context of
  // any of them is full.
  absl::Status StepBatch(absl::Span<Conversation* const> conversations, const Limits& limits);
  absl::Status Step(Conversation& conversation, const Limits& limits) { return StepBatch({&conversation}, limits); }
  // Feeds `tokens` and samples the token after them. next() has not been fed yet: a caller that keeps it puts it first.
  // OUT_OF_RANGE, changing nothing, if they do not fit into the context.
  absl::Status Extend(Conversation& conversation, absl::Span<const int32_t> tokens, const Limits& limits);
  // Like Extend, and returns the logits after each token, [tokens, vocab]; for measurements.
  absl::StatusOr<std::vector<float>> Score(Conversation& conversation, absl::Span<const int32_t> tokens,
                                           const Limits& limits);
  // Forgets the tokens fed since the conversation had `length` positions, and keeps the prompt; for measurements,
  // without rules and filters. What is fed next follows the tokens that remain; next() and logits() are out of date
  // until then. INVALID_ARGUMENT, changing nothing: `length` is within the prompt or beyond the end.
  absl::Status Rewind(Conversation& conversation, int64_t length);
  // Sets how the conversation's next tokens are sampled.
  void SetSampling(Conversation& conversation, const kernels::SampleParams& sampling) {
    conversation.sampling_ = sampling;
  }

  const model::Model& model() const { return *model_; }
  const GeneratorOptions& options() const { return options_; }
  // OK if encodings arrive in device memory while there is room. Otherwise the reason why they come through the host;
  // this is not an error of any request.
  const absl::Status& device_buffer() const { return device_buffer_; }
  bool IsEnd(int32_t token) const;  // of the end-of-sequence set
  // Of a document's own tokens; `packet`: inside the profile's wrapper; `secret`: RequestDocument.
  Identity IdentityOf(absl::Span<const int32_t> tokens, bool packet = false, absl::string_view secret = {}) const;
  ResidentPool& pool() { return pool_; }
  // Waits for queued writes. False if `deadline` passed first.
  bool DrainWriteBack(absl::Time deadline);

  struct Stats {
    int64_t requests = 0;
    int64_t damaged = 0;        // encodings that failed their checksum during a request and were encoded again
    int64_t late = 0;           // encodings that arrived late or could not be read, and were encoded again
    int64_t lapsed = 0;         // encodings whose memory the store took back during a pass, which was repeated
    int64_t encoded = 0;        // documents encoded on the spot, for these reasons and on misses
    int64_t graphs = 0;         // passes that ran as one graph of a device
    int64_t graphs_failed = 0;  // passes whose recording failed and that ran directly
    ResidentPool::Stats pool;
    WriteBack::Stats write_back;
  };
  Stats stats() const;

 private:
  struct Call;      // deadline and cancellation of a call
  struct Rows;      // fresh rows of one conversation in a forward pass
  struct Assembly;  // a batch as Model::Forward takes it
  struct Context;   // streams and scratch memory, used by one forward pass at a time
  struct Sampling;  // of the rows that are sampled
  using Residents = std::vector<std::shared_ptr<Resident>>;
  friend class Conversation;

  Generator(const model::Model* model, const Fingerprint& fingerprint, store::Store* store, GeneratorOptions options,
            absl::StatusOr<std::shared_ptr<store::DeviceBuffer>> device_buffer);

  absl::Status UploadLinkEmbeddings();
  // Fills in the residents that a conversation lacks, from the pool, the store (except those to be computed) or the
  // encoder. `holds`: see Patience.
  absl::Status ReadDocuments(Conversation& conversation, bool holds, const Call& call);
  // Tokens of a document's encoding.
  int64_t EncodedTokens(const RequestDocument& document, bool packet) const {
    return static_cast<int64_t>(document.tokens.size()) + (packet ? options_.wrapper.tokens() : 0);
  }
  // What became of a miss: another request had encoded it by then, or this one did.
  enum class Missed : uint8_t { kNot, kEncoded, kStored };
  // Encodes the documents of the misses, for a conversation.
  absl::StatusOr<std::vector<Missed>> EncodeMissing(const Conversation& conversation,
                                                    absl::Span<const absl::Span<const int32_t>> documents,
                                                    absl::Span<const ResidentPool::Wanted> wanted,
                                                    absl::Span<ResidentPool::Acquired> acquired, const Call& call);
  // Returns once no other call encodes, and none will until EncoderLeft.
  absl::Status AwaitEncoder(const Call& call);
  void EncoderLeft();
  // Waits for a layer of encodings. An error that computing the encoding here would mend adds it to `useless`.
  absl::Status WaitLayer(const Residents& residents, int64_t layer, const Call& call, Residents* useless) const;
  // Removes encodings that turned out to be unusable, which ended in `status`, from all reads of the conversations, and
  // notes how to replace them.
  void Discard(const Residents& useless, const absl::Status& status, absl::Span<Conversation* const> conversations);

  // Computes the prompt of a new conversation.
  absl::StatusOr<std::unique_ptr<Conversation>> Compute(std::unique_ptr<Conversation> conversation,
                                                        const Limits& limits);
  // Counts the tokens of a computed prompt by where its documents' encodings came from.
  void CountTokens(Conversation& conversation) const;
  // Notes when the encodings of a computed prompt were in their places.
  static void EndLoads(Conversation& conversation);
  // Makes the conversation read what the next stage reads, and forget the fresh tokens that it does not keep.
  void EnterStage(Conversation& conversation);
  // Counts `tokens` of the prompt as computed; at the end of a stage enters the next one or ends the prompt.
  void Advance(Conversation& conversation, int64_t tokens);

  // A pass over works that may share one. `together`: if one cannot be fed, none is, and all get its status.
  void PassOver(absl::Span<Work* const> works, const Call& call, bool together);
  // What a work feeds.
  void FillRows(const Work& work, Rows* rows) const;
  // Reads what the rows' conversations lack, allocates slots and runs the rows, except those whose status is an error.
  void Feed(absl::Span<Rows> rows, const Call& call, bool together);
  // Runs rows whose slots are allocated, and samples where rows ask for it. If encodings turn out to be unusable,
  // repeats the pass: `together`, with others in their place; otherwise without the rows that read them.
  void Run(absl::Span<Rows> rows, const Call& call, bool together);
  // One pass. `useless`: the encodings that made it fail, if any; only the rows' slots then remain.
  absl::Status Forward(absl::Span<Rows* const> rows, const Call& call, Residents* useless);
  // Compares the rows' keys and values in the stage's last layer with the stored ones.
  absl::Status ObserveDeviation(Context& context, const Rows& rows);
  void CountGraphs(const model::ForwardContext::Graphs& before, const model::ForwardContext::Graphs& now);
  // Samples into the rows. One for which no token may come next gets a status of its own.
  absl::Status Sample(Context& context, absl::Span<Rows* const> rows, const kernels::Tensor& logits);
  void FillSampling(absl::Span<Rows* const> rows, int64_t vocab, Sampling* sampling) const;
  // Also copies requested logits.
  absl::Status LaunchSampling(Context& context, absl::Span<Rows* const> rows, const kernels::Tensor& logits,
                              Sampling* sampling);
  absl::Status ExtendRows(Conversation& conversation, absl::Span<const int32_t> tokens, const Limits& limits,
                          std::vector<float>* scores);
  absl::Status CheckRoom(const Conversation& conversation, int64_t tokens) const;
  std::unique_ptr<Context> TakeContext();
  void GiveContext(std::unique_ptr<Context> context);

  const model::Model* const model_;
  const Fingerprint fingerprint_;
  const GeneratorOptions options_;
  const absl::Status device_buffer_;
  ResidentPool pool_;
  std::unique_ptr<WriteBack> write_back_;  // nullptr: nothing is written back
  std::unique_ptr<model::KvPages> pages_;
  kernels::Buffer link_embeddings_;

  Mutex encoder_mutex_;
  CondVar encoder_free_;
  bool encoding_ ABSL_GUARDED_BY(encoder_mutex_) = false;  // a call encodes documents on the spot
  // Without and with the profile's wrapper; made when they are needed. Of the call that encodes.
  std::array<std::unique_ptr<encode::Encoder>, 2> encoders_;

  mutable Mutex mutex_;
  std::vector<std::unique_ptr<Context>> contexts_ ABSL_GUARDED_BY(mutex_);
  Stats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_GENERATOR_H_
