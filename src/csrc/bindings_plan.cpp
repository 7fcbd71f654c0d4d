// Python's door to the layout of plans. Arrays of int32 come back in one bytearray, at whose memory numpy looks as it
// is.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <initializer_list>
#include <list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "plan_layout.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvloom {
namespace {

// Memory of an array("i") or of a bytearray, which cannot be resized meanwhile.
class Borrowed {
 public:
  Borrowed(nb::handle owner, const char* format, int64_t item_bytes) {
    if (PyObject_GetBuffer(owner.ptr(), &view_, PyBUF_ND | PyBUF_FORMAT) != 0) throw nb::python_error();
    if (view_.itemsize == item_bytes && std::string(view_.format) == format) return;
    PyBuffer_Release(&view_);
    throw nb::type_error("a page table has ids in an array(\"i\"), and a bytearray that says which are writable");
  }
  Borrowed(const Borrowed&) = delete;
  ~Borrowed() { PyBuffer_Release(&view_); }

  template <class T>
  const T* data() const {
    return (const T*)view_.buf;
  }
  int64_t size() const { return view_.len / view_.itemsize; }

 private:
  Py_buffer view_;
};

typedef std::vector<std::pair<nb::object, nb::object>> Tables;  // ids and writable, by sequence

// Arrays one after another.
nb::object joined(std::initializer_list<const std::vector<int32_t>*> arrays) {
  size_t count = 0;
  for (const auto* array : arrays) count += array->size();
  nb::object bytes = nb::steal(PyByteArray_FromStringAndSize(nullptr, (int64_t)(count * sizeof(int32_t))));
  if (!bytes.is_valid()) throw nb::python_error();
  char* end = PyByteArray_AsString(bytes.ptr());
  for (const auto* array : arrays) end = std::copy_n((const char*)array->data(), array->size() * sizeof(int32_t), end);
  return bytes;
}

nb::object rows(const std::vector<Spans>& sequences) {
  const LaidRows laid = lay_rows(sequences);
  return nb::make_tuple(joined({&laid.positions, &laid.slots, &laid.seq_rows}), laid.positions.size());
}

nb::object pages(const std::vector<Spans>& sequences, const Tables& tables, std::optional<int64_t> window) {
  std::list<Borrowed> borrowed;
  std::vector<TableView> views;
  for (const auto& [ids, writable] : tables) {
    const Borrowed& numbers = borrowed.emplace_back(ids, "i", 4);
    const Borrowed& flags = borrowed.emplace_back(writable, "B", 1);
    views.push_back({numbers.data<int32_t>(), flags.data<uint8_t>(), std::min(numbers.size(), flags.size())});
  }
  const LaidPages laid = lay_pages(sequences, views, window);
  return nb::make_tuple(joined({&laid.page_ids, &laid.page_starts, &laid.seq_pages, &laid.row_pages}),
                        laid.page_ids.size());
}

}  // namespace

void bind_plan(nb::module_& m) {
  m.def("lay_rows", &rows, "sequences"_a,
        "Positions, slots and row bounds of sequences, each a list of spans; and how many rows.");
  m.def("lay_pages", &pages, "sequences"_a, "tables"_a, "window"_a.none(),
        "Page ids, page starts and page bounds of one layer group, the page that each row writes to; and how many "
        "pages.");
}

}  // namespace kvloom
