" Dictation through sttd; see README.md.
if exists("g:loaded_sttd")
  finish
endif
let g:loaded_sttd = 1

command! SttdDictate lua require("sttd").toggle()
command! SttdStatus lua require("sttd").status()
