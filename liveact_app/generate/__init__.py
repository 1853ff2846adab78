"""A picture and a recording become a video: `command` and `job` what is asked, `render` the loop, `ranks` the helpers."""
